//! Reading a rescue area.

use super::{AreaError, Contents, Head, Places, Span, BLOCK, CHUNK, CONTENTS_AT, START};
use crate::{stage::digest, PAGE_SIZE};
use alloc::{vec, vec::Vec};
use zerocopy::FromBytes;

/// A partition that can be read.
pub trait Source {
    /// Fills `bytes` from byte `at` on; whether it could.
    fn read(&self, at: u64, bytes: &mut [u8]) -> bool;
}

/// An area that holds something.
#[derive(Debug)]
pub struct Area<S> {
    source: S,
    /// What it holds.
    pub contents: Contents,
    /// Its head.
    pub head: Head,
    places: Places,
    digests: Vec<u32>,
    spans: Vec<Span>,
    /// Where in the area each span's first frame lies, as a number of frames.
    first: Vec<u64>,
    /// The chunk that was read last, and its number.
    chunk: (u64, Vec<u8>),
}

impl<S: Source> Area<S> {
    /// Opens an area in a partition of so many bytes. What is in it is compared with its digest when it is read.
    ///
    /// # Errors
    /// [`AreaError`]; [`AreaError::Empty`] if nothing was saved.
    pub fn open(source: S, found: u64) -> Result<Self, AreaError> {
        let mut block = vec![0; BLOCK as usize];
        let read = |at: u64, bytes: &mut [u8]| source.read(at, bytes).then_some(()).ok_or(AreaError::Unreadable(at));
        read(0, &mut block)?;
        let head = Head::parse(&block, found)?;
        read(CONTENTS_AT, &mut block)?;
        let contents = Contents::parse(&block, &head)?;
        let damaged = AreaError::Damaged("the list of digests");
        let places = Places::of(&contents, &head).ok_or(damaged)?;
        // The area is as long as this at least, by its head.
        let mut bytes = vec![0; usize::try_from(places.chunks().saturating_mul(4)).map_err(|_| damaged)?];
        read(places.end, &mut bytes)?;
        if digest(&bytes) != contents.digests {
            return Err(damaged);
        }
        let digests = bytes
            .as_chunks::<4>()
            .0
            .iter()
            .map(|&bytes| u32::from_le_bytes(bytes))
            .collect();
        let mut area = Self {
            source,
            contents,
            head,
            places,
            digests,
            spans: Vec::new(),
            first: Vec::new(),
            chunk: (u64::MAX, Vec::new()),
        };
        area.read_spans()?;
        Ok(area)
    }

    fn read_spans(&mut self) -> Result<(), AreaError> {
        let bytes = self.contents.spans.saturating_mul(size_of::<Span>() as u64);
        let list = self.bytes(self.places.spans, bytes, "the list of frames")?;
        let spans = <[Span]>::ref_from_bytes(&list).map_err(|_| AreaError::Damaged("the list of frames"))?;
        let mut at = 0u64;
        for span in spans {
            self.first.push(at);
            at = at.saturating_add(span.count);
        }
        let apart = |pair: &[Span]| match pair {
            [one, next] => one.first.checked_add(one.count).is_some_and(|end| end <= next.first),
            _ => true,
        };
        if at != self.contents.frames || !spans.windows(2).all(apart) {
            return Err(AreaError::Damaged("the list of frames"));
        }
        self.spans = spans.to_vec();
        Ok(())
    }

    /// Why the machine was given up.
    ///
    /// # Errors
    /// [`AreaError`].
    pub fn epitaph(&mut self) -> Result<Vec<u8>, AreaError> {
        self.bytes(START, self.contents.epitaph, "the epitaph")
    }

    /// The records ([`crate::record::Stream`]).
    ///
    /// # Errors
    /// [`AreaError`].
    pub fn records(&mut self) -> Result<Vec<u8>, AreaError> {
        self.bytes(self.places.records, self.contents.records, "the list of files")
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// [`AreaError::NoFrame`] if it was not saved.
    pub fn frame(&mut self, frame: u64, page: &mut [u8]) -> Result<(), AreaError> {
        let none = AreaError::NoFrame(frame);
        let index = self
            .spans
            .partition_point(|span| span.first <= frame)
            .checked_sub(1)
            .ok_or(none)?;
        let (span, first) = self.spans.get(index).zip(self.first.get(index)).ok_or(none)?;
        let inside = frame.saturating_sub(span.first);
        if inside >= span.count {
            return Err(none);
        }
        let place = first.saturating_add(inside).saturating_mul(PAGE_SIZE);
        self.read(self.places.frames.saturating_add(place), page, "a page of a file")
    }

    /// Bytes of a section; their number was checked against the area's.
    fn bytes(&mut self, at: u64, length: u64, what: &'static str) -> Result<Vec<u8>, AreaError> {
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| AreaError::Damaged(what))?];
        self.read(at, &mut bytes, what)?;
        Ok(bytes)
    }

    /// Reads bytes, chunk by chunk, each compared with its digest.
    fn read(&mut self, mut at: u64, bytes: &mut [u8], what: &'static str) -> Result<(), AreaError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let place = at.saturating_sub(START);
            let number = place / CHUNK as u64;
            self.load(number, what)?;
            let inside = (place % CHUNK as u64) as usize;
            let there = self.chunk.1.get(inside..).filter(|there| !there.is_empty());
            let there = there.ok_or(AreaError::Damaged(what))?;
            let length = there.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(there.get(..length).unwrap_or_default());
            at = at.saturating_add(length as u64);
            rest = later;
        }
        Ok(())
    }

    fn load(&mut self, number: u64, what: &'static str) -> Result<(), AreaError> {
        if self.chunk.0 == number {
            return Ok(());
        }
        self.chunk.0 = u64::MAX;
        let at = number.saturating_mul(CHUNK as u64).saturating_add(START);
        let length = self.places.end.saturating_sub(at).min(CHUNK as u64) as usize;
        self.chunk.1.resize(length, 0);
        if !self.source.read(at, &mut self.chunk.1) {
            return Err(AreaError::Unreadable(at));
        }
        let wanted = usize::try_from(number).ok().and_then(|number| self.digests.get(number));
        if wanted != Some(&digest(&self.chunk.1)) {
            return Err(AreaError::Damaged(what));
        }
        self.chunk.0 = number;
        Ok(())
    }
}
