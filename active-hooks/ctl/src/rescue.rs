//! `orthros-ctl rescue`: puts back what the backup OS has saved as it gave the machine up.

use crate::cli::Rescue;
use crate::exit::Exit;
use crate::rescue_area;
use anyhow::{bail, Context, Result};
use orthros_init::rescue::place::Writing;
use orthros_init::rescue::{plan, put_back, Frames, Place, Plan, Private};
use orthros_init::restore::world::World;
use serde_json::json;
use shared_region::record::Stream;
use shared_region::rescue_area::{state, Area, AreaError, BLOCK, CONTENTS_AT};
use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use zerocopy::IntoBytes;

/// What is told.
struct Told<'t> {
    area: &'t Path,
    failover: u64,
    epitaph: String,
    left_out: bool,
    /// What was done with file systems that were not mounted.
    unmounted: &'t [String],
    plan: &'t Plan,
}

impl Told<'_> {
    fn show(&self, done: &str, json: bool) {
        let plan = self.plan;
        if json {
            let files = plan
                .files
                .iter()
                .map(|file| json!({"name": file.name, "bytes": file.bytes}));
            let files: Vec<_> = files.collect();
            let told = json!({
                "version": 1, "area": self.area, "failover": self.failover, "epitaph": self.epitaph,
                "left_out": self.left_out, "unmounted": self.unmounted, "done": done, "files": files, "directories": plan.directories,
                "already": plan.already,
                "refused": plan.refused,
            });
            println!("{told:#}");
            return;
        }
        println!(
            "{}: saved in failover {}: {}",
            self.area.display(),
            self.failover,
            self.epitaph
        );
        for said in self.unmounted {
            println!("{said}");
        }
        for file in &plan.files {
            println!("{done}: {}, {} bytes of data", file.name, file.bytes);
        }
        if plan.already != 0 {
            println!("{} files have it already", plan.already);
        }
        if plan.directories != 0 {
            println!("{done}: names in {} directories", plan.directories);
        }
        for why in &plan.refused {
            println!("refused: {why}");
        }
        if self.left_out {
            println!("the area had no room for all of it");
        }
    }
}

fn find(wish: &Rescue) -> Result<PathBuf> {
    match &wish.area {
        Some(area) => Ok(area.clone()),
        None => rescue_area::only(),
    }
}

fn open(path: &Path) -> Result<Option<Area<Place>>> {
    let mut file = File::open(path)?;
    let bytes = file.seek(SeekFrom::End(0))?;
    match Area::open(Place(file), bytes) {
        Ok(area) if area.contents.state == state::USED => Ok(None),
        Ok(area) => Ok(Some(area)),
        Err(AreaError::Empty) => Ok(None),
        Err(error) => bail!(error),
    }
}

/// Nobody has to put it back any more.
fn use_up(path: &Path, area: &Area<Place>) -> Result<()> {
    let mut block = vec![0; BLOCK as usize];
    let contents = area.contents.in_state(state::USED);
    block[..contents.as_bytes().len()].copy_from_slice(contents.as_bytes());
    let file = Writing::open(path, false)?;
    file.write_all_at(&block, CONTENTS_AT)?;
    Ok(file.sync_all()?)
}

/// Puts it back, or says what there is.
pub fn run(wish: &Rescue) -> Result<Exit> {
    let path = find(wish)?;
    let text = || path.display().to_string();
    let Some(mut area) = open(&path).with_context(text)? else {
        match wish.json {
            true => println!(
                "{:#}",
                json!({"version": 1, "area": path, "done": "nothing", "files": [], "refused": []})
            ),
            false => println!("{}: there is nothing to put back", path.display()),
        }
        return Ok(Exit::Fine);
    };
    if wish.discard {
        use_up(&path, &area).with_context(text)?;
        return Ok(Exit::Fine);
    }
    let epitaph = String::from_utf8_lossy(&area.epitaph().with_context(text)?).into_owned();
    let records = area.records().with_context(text)?;
    let (failover, left_out) = (area.contents.failover, area.contents.left_out != 0);
    let stream = Stream::open(&records).with_context(text)?;
    let mut world = World::read(&stream);
    let frames = Frames(RefCell::new(area));
    let only_look = wish.list || wish.dry_run;
    let mut private = Private::make(&world, &frames, only_look).map_err(anyhow::Error::msg)?;
    let mut plan = plan(&mut world, &frames, &private, &path);
    if !only_look {
        let mut last = std::time::Instant::now();
        let beat = RefCell::new(&mut last);
        let alive = || {
            let mut last = beat.borrow_mut();
            if last.elapsed().as_secs() >= 1 {
                eprintln!("orthros-ctl: putting files back ...");
                **last = std::time::Instant::now();
            }
        };
        let (failed, files_failed) = put_back(&world, &frames, &private, &alive);
        plan.is_kept |= files_failed;
        let is_of = |name: &str| failed.iter().any(|why| why.starts_with(&format!("{name}:")));
        plan.files.retain(|file| !is_of(&file.name));
        plan.refused.extend(failed);
        rustix::fs::sync();
        plan.refused.extend(private.end());
        if !plan.is_kept {
            use_up(&path, &frames.0.borrow()).with_context(text)?;
        }
    }
    let told = Told {
        area: &path,
        failover,
        epitaph,
        left_out,
        unmounted: &private.remarks,
        plan: &plan,
    };
    told.show(if only_look { "can be put back" } else { "put back" }, wish.json);
    if plan.is_kept && !wish.json {
        println!("the area is kept: run this again when that file system is mounted, is written to and has room, or with --discard");
    }
    Ok(match wish.list || plan.refused.is_empty() && !left_out {
        true => Exit::Fine,
        false => Exit::No,
    })
}
