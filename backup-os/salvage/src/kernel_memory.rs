//! The kernel's own address space, read through its page tables.
//!
//! Reads of the direct map and of the kernel image are translated by arithmetic, as the kernel does it; all other
//! addresses (vmalloc stacks, modules, `struct page`) by walking `init_top_pgt`, with a small cache.

use crate::addr::{Kva, PhysAddr, PAGE_SIZE};
use crate::error::{ReadError, Reason};
use crate::memory::PhysMem;
use crate::mirror::Field;
use crate::paging::{PageSize, PageTables};
use crate::tables::START_KERNEL_MAP;
use alloc::vec::Vec;
use core::cell::Cell;
use core::ops::Range;

/// Pages of which the translation is remembered, of each size; a power of two.
const CACHE: usize = 256;
/// Bytes read at a time while looking for the end of a string.
const STRING_STEP: usize = 64;

/// How the kernel's virtual addresses lead to physical ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressSpace {
    /// The kernel's page tables (`init_top_pgt`).
    pub tables: PageTables,
    /// Virtual addresses of the kernel image, if known; empty otherwise.
    pub image: Range<Kva>,
    /// Physical address of virtual address [`START_KERNEL_MAP`], two's complement (`phys_base`).
    pub phys_base: u64,
    /// Virtual addresses of the direct map (`page_offset_base` to `vmalloc_base`), if known; empty otherwise.
    pub direct_map: Range<Kva>,
}

/// The kernel's memory. Cheap to make; each CPU that salvages makes its own.
#[derive(Debug)]
pub struct KernelMemory<'m, M: PhysMem + ?Sized> {
    phys: &'m M,
    space: AddressSpace,
    /// 4 KB pages.
    small: Cache,
    /// 2 MB pages, and parts of larger ones: `struct page`s lie in these.
    large: Cache,
}

/// Remembered translations of pages of one size.
#[derive(Debug)]
struct Cache {
    /// log2 of the size.
    shift: u32,
    /// Number of a virtual page and physical address of its first byte. Page number 0 marks a free slot: it is never
    /// kernel memory.
    slots: [Cell<(u64, u64)>; CACHE],
}

impl Cache {
    const fn new(size: PageSize) -> Self {
        Self {
            shift: size.shift(),
            slots: [const { Cell::new((0, 0)) }; CACHE],
        }
    }

    fn slot(&self, page: u64) -> Option<&Cell<(u64, u64)>> {
        self.slots.get((page as usize) & (CACHE - 1))
    }

    /// The physical address behind a virtual one, if its page is remembered.
    fn get(&self, address: Kva) -> Option<PhysAddr> {
        let page = address.0 >> self.shift;
        let (known, start) = self.slot(page)?.get();
        let within = address.0 & (1u64 << self.shift).wrapping_sub(1);
        (known == page && page != 0).then_some(PhysAddr(start | within))
    }

    /// Remembers the page of an address.
    fn put(&self, address: Kva, phys: PhysAddr) {
        let page = address.0 >> self.shift;
        if let Some(slot) = self.slot(page) {
            slot.set((page, phys.0 & !(1u64 << self.shift).wrapping_sub(1)));
        }
    }
}

impl<'m, M: PhysMem + ?Sized> KernelMemory<'m, M> {
    /// Looks at `phys` with the given translation.
    pub fn new(phys: &'m M, space: AddressSpace) -> Self {
        Self {
            phys,
            space,
            small: Cache::new(PageSize::Base),
            large: Cache::new(PageSize::Huge2M),
        }
    }

    /// The physical memory below.
    pub fn phys(&self) -> &'m M {
        self.phys
    }

    /// The translation in use.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Physical address behind a kernel address.
    ///
    /// # Errors
    /// Not canonical, not mapped, or mapped through tables that are no RAM. That the result is RAM is not checked.
    pub fn translate(&self, address: Kva) -> Result<PhysAddr, ReadError> {
        if self.space.direct_map.contains(&address) {
            return Ok(PhysAddr(address.0.wrapping_sub(self.space.direct_map.start.0)));
        }
        if self.space.image.contains(&address) {
            return Ok(PhysAddr(
                address
                    .0
                    .wrapping_sub(START_KERNEL_MAP.0)
                    .wrapping_add(self.space.phys_base),
            ));
        }
        if let Some(phys) = self.large.get(address).or_else(|| self.small.get(address)) {
            return Ok(phys);
        }
        let found = self
            .space
            .tables
            .translate_kernel(self.phys, address)
            .map_err(|reason| ReadError { address, reason })?;
        let cache = if found.size == PageSize::Base {
            &self.small
        } else {
            &self.large
        };
        cache.put(address, found.phys);
        Ok(found.phys)
    }

    /// Fills `buf` from an address on; the range may cross pages.
    ///
    /// # Errors
    /// A page of it is not mapped or not RAM.
    pub fn read(&self, address: Kva, buf: &mut [u8]) -> Result<(), ReadError> {
        let mut at = address;
        let mut rest = buf;
        while !rest.is_empty() {
            let in_page = PAGE_SIZE.saturating_sub(at.page_offset()) as usize;
            let (now, later) = rest.split_at_mut(in_page.min(rest.len()));
            let phys = self.translate(at)?;
            self.phys.read(phys, now).map_err(|_| ReadError {
                address: at,
                reason: Reason::NotRam(phys),
            })?;
            at = at.offset(now.len() as u64);
            rest = later;
        }
        Ok(())
    }

    /// The bytes in place, if they are contiguous physical memory.
    pub fn slice(&self, address: Kva, len: usize) -> Option<&'m [u8]> {
        let start = self.translate(address).ok()?;
        let last = address.offset((len as u64).saturating_sub(1));
        let mut page = Kva(address.0 & !(PAGE_SIZE - 1)).offset(PAGE_SIZE);
        while page <= last && page > address {
            let expected = start.checked_add(page.0.wrapping_sub(address.0))?;
            if self.translate(page).ok()? != expected {
                return None;
            }
            page = page.offset(PAGE_SIZE);
        }
        self.phys.slice(start, len)
    }

    /// A copy of `len` bytes.
    ///
    /// # Errors
    /// `len` is more than all RAM, or a page is not mapped or not RAM.
    pub fn bytes(&self, address: Kva, len: usize) -> Result<Vec<u8>, ReadError> {
        if len as u64 > self.phys.end().0 {
            return Err(ReadError {
                address,
                reason: Reason::TooLarge(len as u64),
            });
        }
        if let Some(slice) = self.slice(address, len) {
            return Ok(slice.to_vec());
        }
        let mut out = alloc::vec![0; len];
        self.read(address, &mut out)?;
        Ok(out)
    }

    /// `N` bytes.
    ///
    /// # Errors
    /// A page is not mapped or not RAM.
    pub fn array<const N: usize>(&self, address: Kva) -> Result<[u8; N], ReadError> {
        let mut out = [0; N];
        if address.page_offset().saturating_add(N as u64) <= PAGE_SIZE {
            let phys = self.translate(address)?;
            if let Some(chunk) = self.phys.slice(phys, N).and_then(<[u8]>::first_chunk) {
                return Ok(*chunk);
            }
        }
        self.read(address, &mut out)?;
        Ok(out)
    }

    /// An 8-bit integer.
    ///
    /// # Errors
    /// The page is not mapped or not RAM.
    pub fn u8(&self, address: Kva) -> Result<u8, ReadError> {
        self.array::<1>(address).map(u8::from_le_bytes)
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// As for [`KernelMemory::u8`].
    pub fn u16(&self, address: Kva) -> Result<u16, ReadError> {
        self.array(address).map(u16::from_le_bytes)
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// As for [`KernelMemory::u8`].
    pub fn u32(&self, address: Kva) -> Result<u32, ReadError> {
        self.array(address).map(u32::from_le_bytes)
    }

    /// A signed 32-bit integer.
    ///
    /// # Errors
    /// As for [`KernelMemory::u8`].
    pub fn i32(&self, address: Kva) -> Result<i32, ReadError> {
        self.array(address).map(i32::from_le_bytes)
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// As for [`KernelMemory::u8`].
    pub fn u64(&self, address: Kva) -> Result<u64, ReadError> {
        self.array(address).map(u64::from_le_bytes)
    }

    /// A signed 64-bit integer.
    ///
    /// # Errors
    /// As for [`KernelMemory::u8`].
    pub fn i64(&self, address: Kva) -> Result<i64, ReadError> {
        self.array(address).map(i64::from_le_bytes)
    }

    /// A pointer.
    ///
    /// # Errors
    /// As for [`KernelMemory::u8`].
    pub fn pointer(&self, address: Kva) -> Result<Kva, ReadError> {
        self.u64(address).map(Kva)
    }

    /// A member of the structure at `base`, whatever its width, zero-extended; bit-fields are shifted down.
    ///
    /// # Errors
    /// The member is wider than 64 bits, or its page is not mapped or not RAM.
    pub fn uint(&self, base: Kva, field: Field) -> Result<u64, ReadError> {
        let address = base.offset(u64::from(field.offset));
        if field.bit_size != 0 {
            let end = u32::from(field.bit).saturating_add(u32::from(field.bit_size));
            let mut word = [0; 8];
            let width = (end.saturating_add(7) >> 3) as usize;
            let Some(covered) = word.get_mut(..width).filter(|_| field.bit_size < 64) else {
                return Err(ReadError {
                    address,
                    reason: Reason::TooLarge(u64::from(field.bit_size)),
                });
            };
            self.read(address, covered)?;
            let mask = (1u64 << field.bit_size).wrapping_sub(1);
            return Ok((u64::from_le_bytes(word) >> field.bit) & mask);
        }
        match field.size {
            8 => self.u64(address),
            4 => self.u32(address).map(u64::from),
            2 => self.u16(address).map(u64::from),
            1 => self.u8(address).map(u64::from),
            size => Err(ReadError {
                address,
                reason: Reason::TooLarge(u64::from(size)),
            }),
        }
    }

    /// A member of the structure at `base`, whatever its width, sign-extended.
    ///
    /// # Errors
    /// As for [`KernelMemory::uint`].
    pub fn int(&self, base: Kva, field: Field) -> Result<i64, ReadError> {
        let bits = if field.bit_size != 0 {
            u32::from(field.bit_size)
        } else {
            field.size.saturating_mul(8)
        };
        let unused = 64u32.saturating_sub(bits);
        self.uint(base, field).map(|value| (value << unused) as i64 >> unused)
    }

    /// A member of the structure at `base` that is a pointer.
    ///
    /// # Errors
    /// As for [`KernelMemory::uint`].
    pub fn ptr(&self, base: Kva, field: Field) -> Result<Kva, ReadError> {
        self.uint(base, field).map(Kva)
    }

    /// A member of the structure at `base` that is an array of `char`, up to its NUL or its end.
    ///
    /// # Errors
    /// As for [`KernelMemory::bytes`].
    pub fn text(&self, base: Kva, field: Field) -> Result<Vec<u8>, ReadError> {
        let mut bytes = self.bytes(base.offset(u64::from(field.offset)), field.size as usize)?;
        if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
            bytes.truncate(end);
        }
        Ok(bytes)
    }

    /// The string at an address, without its NUL, of at most `max` bytes.
    ///
    /// # Errors
    /// [`Reason::NotTerminated`] if there is no NUL among the first `max` + 1 bytes; or a page is not mapped or not RAM.
    pub fn cstr(&self, address: Kva, max: usize) -> Result<Vec<u8>, ReadError> {
        let mut out = Vec::new();
        let mut at = address;
        while out.len() <= max {
            let in_page = PAGE_SIZE.saturating_sub(at.page_offset()) as usize;
            let mut step = [0; STRING_STEP];
            let chunk = step.get_mut(..in_page.min(STRING_STEP)).unwrap_or(&mut []);
            self.read(at, chunk)?;
            let end = chunk.iter().position(|&byte| byte == 0);
            out.extend_from_slice(chunk.get(..end.unwrap_or(chunk.len())).unwrap_or(&[]));
            if end.is_some() && out.len() <= max {
                return Ok(out);
            }
            at = at.offset(chunk.len() as u64);
        }
        Err(ReadError {
            address,
            reason: Reason::NotTerminated(max),
        })
    }
}
