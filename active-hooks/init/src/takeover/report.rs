//! The report: what became of each process that was recorded, kept in the region until the next failover. What was
//! not recorded, and why, is in the Essential Context beside it.

use crate::boot::log;
use anyhow::{Context, Result};
use orthros_device::Device;
use shared_region::{
    context::{Cost, FileCache, Lost, Outcome},
    layout::REPORT,
    record::{Kind, Writer},
};
use std::collections::BTreeMap;

/// Tells the console. `lost` is what the salvager could not save, with the process it costs.
pub fn tell(outcomes: &BTreeMap<u32, Outcome>, lost: &[(u32, Lost)]) {
    for (pid, lost) in lost.iter().filter(|(_, lost)| lost.fatal) {
        if !outcomes.contains_key(pid) {
            log::error(format_args!(
                "process {pid} ({}) is lost: {}: {}",
                lost.comm, lost.object, lost.reason
            ));
        }
    }
    for (pid, outcome) in outcomes {
        let remarks = outcome.remarks.join("; ");
        if !outcome.resumed {
            log::error(format_args!("process {pid} ({}) is lost: {remarks}", outcome.comm));
        } else if remarks.is_empty() {
            log::info(format_args!("process {pid} ({}) goes on", outcome.comm));
        } else {
            log::warning(format_args!(
                "process {pid} ({}) goes on without: {remarks}",
                outcome.comm
            ));
        }
    }
}

/// Stores the report through the module.
///
/// # Errors
/// It does not fit, or the module refuses it.
pub fn store(
    device: &Device,
    failover: u64,
    outcomes: &BTreeMap<u32, Outcome>,
    (files, file_remarks): (&FileCache, &[String]),
    costs: &[Cost],
) -> Result<()> {
    let mut area = vec![0; REPORT.size as usize];
    let used = write(&mut area, failover, outcomes, (files, file_remarks), costs).context("the report area is full")?;
    device.write_report(&area[..used])?;
    Ok(())
}

fn write(
    area: &mut [u8],
    failover: u64,
    outcomes: &BTreeMap<u32, Outcome>,
    (files, file_remarks): (&FileCache, &[String]),
    costs: &[Cost],
) -> Result<usize> {
    let mut writer = Writer::new(area, failover)?;
    writer.push(Kind::Costs, 1, 0, 0, costs)?;
    writer.push(Kind::FileCache, 1, 0, 0, files)?;
    for (pid, outcome) in outcomes {
        writer.push(Kind::Outcome, 1, 0, u64::from(*pid), outcome)?;
    }
    for remark in file_remarks {
        let lost = Lost {
            object: "file".into(),
            reason: remark.clone(),
            ..Lost::default()
        };
        writer.push(Kind::Lost, 1, 0, 0, &lost)?;
    }
    Ok(writer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::record::Stream;

    #[test]
    fn a_report_holds_outcomes_and_what_became_of_files() {
        let outcomes = BTreeMap::from([(5, Outcome::default())]);
        let mut area = vec![0; 4096];
        let files = FileCache::default();
        write(&mut area, 7, &outcomes, (&files, &["x".into()]), &[Cost::default()]).unwrap();
        let report = Stream::open(&area).unwrap();
        let kinds: Vec<Kind> = report.records().map(|record| record.unwrap().kind).collect();
        assert_eq!(kinds, [Kind::Costs, Kind::FileCache, Kind::Outcome, Kind::Lost]);
        assert_eq!(report.header.failover, 7);
    }
}
