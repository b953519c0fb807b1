//! Contexts of asynchronous input and output.

use crate::cell::{join, same, Cell, Context};
use crate::sys::aio::Aio;
use anyhow::Result;
use std::fs::{self, File};

const FIELDS: &[&str] = &[
    "AioContext.address",
    "AioContext.bytes",
    "AioContext.requests",
    "AioContext.places",
    "AioContext.head",
    "AioContext.tail",
];

pub const CELLS: &[Cell] = &[
    Cell {
        name: "aio/events",
        what: "two contexts, of one of which the ring has begun again, with events that nobody has taken: these, then those of new requests, and as many as there is room for",
        covers: FIELDS,
        caught: None,
        run: events,
    },
    Cell {
        name: "aio/wait",
        what: "a thread that waits for an event gets the next one",
        covers: &["AioContext.address", "Resume.Registers"],
        caught: Some("io_getevents"),
        run: wait,
    },
];

/// Requests that are over.
const MANY: u64 = 1000;
/// Events that nobody has taken.
const LEFT: u64 = 5;

/// Marks and results of the events that are there, at most so many, after a wait for `least`.
fn taken_after(aio: Aio, least: i64, most: usize) -> Result<Vec<(u64, i64)>> {
    let events = aio.events(least, most)?;
    Ok(events.iter().map(|event| (event.data, event.result)).collect())
}

fn taken(aio: Aio, most: usize) -> Result<Vec<(u64, i64)>> {
    taken_after(aio, 0, most)
}

fn events(context: &mut Context) -> Result<()> {
    let null = File::open("/dev/null")?;
    let path = context.path("file");
    let file = File::create(&path)?;
    let (fresh, used) = (Aio::new(8)?, Aio::new(32)?);
    for number in 0..MANY {
        used.read_nothing(&null, number)?;
        same("an event", taken(used, 1)?, vec![(number, 0)])?;
    }
    for number in 0..LEFT {
        used.read_nothing(&null, MANY + number)?;
    }
    fresh.write(&file, 7, b"before", 0)?;
    context.failover(|| taken(used, 1).map(drop))?;
    let expected: Vec<(u64, i64)> = (MANY..MANY + LEFT).map(|number| (number, 0)).collect();
    same("events that nobody had taken", taken(used, LEFT as usize)?, expected)?;
    same("the event of a write", taken(fresh, 1)?, vec![(7, 6)])?;
    fresh.write(&file, 8, b" after", 6)?;
    same("the event of the next write", taken(fresh, 1)?, vec![(8, 6)])?;
    same(
        "what was written",
        fs::read_to_string(&path)?,
        "before after".to_owned(),
    )?;
    for number in 0..32 {
        used.read_nothing(&null, number)?;
    }
    let expected: Vec<(u64, i64)> = (0..32).map(|number| (number, 0)).collect();
    same("events of new requests", taken(used, 32)?, expected)?;
    fresh.destroy()?;
    used.destroy()
}

fn wait(context: &mut Context) -> Result<()> {
    let null = File::open("/dev/null")?;
    let aio = Aio::new(4)?;
    let waiter = std::thread::spawn(move || taken_after(aio, 1, 1));
    let mut expected = vec![(3, 0)];
    context.failover(|| {
        expected.clear();
        Ok(())
    })?;
    aio.read_nothing(&null, 3)?;
    same("the event", join(waiter)??, expected)
}
