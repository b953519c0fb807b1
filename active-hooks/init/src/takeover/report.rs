//! The report: what became of each process, kept in the region until the next failover.

use crate::boot::log;
use anyhow::{Context, Result};
use orthros_device::Device;
use shared_region::{
    context::{Lost, Outcome},
    layout::REPORT,
    record::{Kind, Stream, Writer},
};
use std::collections::BTreeMap;

/// Records of the salvager that belong into the report; the Essential Context itself is overwritten sooner.
const KEPT: [Kind; 4] = [Kind::Machine, Kind::Lost, Kind::Evidence, Kind::Summary];

/// Tells the console.
pub fn tell(outcomes: &BTreeMap<u32, Outcome>) {
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
    stream: &Stream<'_>,
    outcomes: &BTreeMap<u32, Outcome>,
    file_remarks: &[String],
) -> Result<()> {
    let mut area = vec![0; REPORT.size as usize];
    let used = write(&mut area, stream, outcomes, file_remarks).context("the report area is full")?;
    device.write_report(&area[..used])?;
    Ok(())
}

fn write(
    area: &mut [u8],
    stream: &Stream<'_>,
    outcomes: &BTreeMap<u32, Outcome>,
    file_remarks: &[String],
) -> Result<usize> {
    let mut writer = Writer::new(area, stream.header.failover)?;
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
    for record in stream.records().filter_map(Result::ok) {
        if KEPT.contains(&record.kind) {
            // The end of a report that does not fit is left out, and the stream says so.
            let _ = writer.push_bytes(record.kind, record.version, record.flags, record.owner, record.payload);
        }
    }
    Ok(writer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_outcomes_and_the_salvagers_findings() {
        let mut source = vec![0; 4096];
        let mut writer = Writer::new(&mut source, 7).unwrap();
        writer
            .push(Kind::Lost, 1, 0, 5, &Lost::default())
            .and_then(|()| writer.push_bytes(Kind::Bytes, 1, 0, 5, b"not for the report"))
            .unwrap();
        writer.finish();
        let stream = Stream::open(&source).unwrap();
        let outcomes = BTreeMap::from([(5, Outcome::default())]);
        let mut area = vec![0; 4096];
        write(&mut area, &stream, &outcomes, &["x".into()]).unwrap();
        let report = Stream::open(&area).unwrap();
        let kinds: Vec<Kind> = report.records().map(|record| record.unwrap().kind).collect();
        assert_eq!(kinds, [Kind::Outcome, Kind::Lost, Kind::Lost]);
        assert_eq!(report.header.failover, 7);
    }
}
