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

/// What is stored.
#[derive(Debug, Default)]
pub struct Report {
    /// Number of the failover.
    pub failover: u64,
    /// What became of each process.
    pub outcomes: BTreeMap<u32, Outcome>,
    /// What became of files that no protected process held.
    pub files: FileCache,
    /// What of files could not be put back.
    pub file_remarks: Vec<String>,
    /// Where the time went.
    pub costs: Vec<Cost>,
}

impl Report {
    /// Stores it through the module, in place of what was stored before.
    pub fn store(&self, device: &Device) {
        let mut area = vec![0; REPORT.size as usize];
        let written = self.write(&mut area).context("the report area is full");
        let stored = written.and_then(|used| Ok(device.write_report(&area[..used])?));
        if let Err(error) = stored {
            log::error(format_args!("the report is not stored: {error:#}"));
        }
    }

    fn write(&self, area: &mut [u8]) -> Result<usize> {
        let mut writer = Writer::new(area, self.failover)?;
        writer.push(Kind::Costs, 1, 0, 0, &self.costs)?;
        writer.push(Kind::FileCache, 1, 0, 0, &self.files)?;
        for (pid, outcome) in &self.outcomes {
            writer.push(Kind::Outcome, 1, 0, u64::from(*pid), outcome)?;
        }
        for remark in &self.file_remarks {
            let lost = Lost {
                object: "file".into(),
                reason: remark.clone(),
                ..Lost::default()
            };
            writer.push(Kind::Lost, 1, 0, 0, &lost)?;
        }
        Ok(writer.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared_region::record::Stream;

    #[test]
    fn a_report_holds_outcomes_and_what_became_of_files() {
        let report = Report {
            failover: 7,
            outcomes: BTreeMap::from([(5, Outcome::default())]),
            file_remarks: vec!["x".into()],
            costs: vec![Cost::default()],
            ..Report::default()
        };
        let mut area = vec![0; 4096];
        report.write(&mut area).unwrap();
        let report = Stream::open(&area).unwrap();
        let kinds: Vec<Kind> = report.records().map(|record| record.unwrap().kind).collect();
        assert_eq!(kinds, [Kind::Costs, Kind::FileCache, Kind::Outcome, Kind::Lost]);
        assert_eq!(report.header.failover, 7);
    }
}
