//! Addresses. Each kind is a type of its own, so that none is taken for another.

use core::fmt;

/// Bytes in a page frame (Intel SDM vol. 3A, 4.5).
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// A physical address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr(pub u64);

/// A virtual address of the kernel under salvage. An allegation: it may point anywhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kva(pub u64);

/// A virtual address in a process.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uva(pub u64);

/// Number of a page frame: physical address divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pfn(pub u64);

impl PhysAddr {
    /// The frame the address lies in.
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// The address so many bytes further on, if there is one.
    pub fn checked_add(self, bytes: u64) -> Option<Self> {
        self.0.checked_add(bytes).map(Self)
    }

    /// Bytes from the start of the address's page.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Pfn {
    /// First byte of the frame. Frame numbers beyond the physical address space wrap, and are then no RAM.
    pub const fn phys(self) -> PhysAddr {
        PhysAddr(self.0.wrapping_shl(PAGE_SHIFT))
    }
}

impl Kva {
    /// The null pointer.
    pub const NULL: Self = Self(0);

    /// Whether this is the null pointer.
    pub const fn is_null(self) -> bool {
        self.0 == 0
    }

    /// The address `bytes` further on; wraps like C pointers in a `container_of`.
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The address `bytes` before; see [`Kva::offset`].
    pub const fn back(self, bytes: u64) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }

    /// Whether it is a multiple of `align`, which is a power of two.
    pub const fn is_aligned(self, align: u64) -> bool {
        self.0 & align.wrapping_sub(1) == 0
    }

    /// Bytes from the start of the address's page.
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Uva {
    /// The address `bytes` further on; wraps.
    pub const fn offset(self, bytes: u64) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

macro_rules! show_as_hex {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }
    )*};
}
show_as_hex!(PhysAddr Kva Uva Pfn);
