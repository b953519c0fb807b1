//! Containers built by hand, whole and broken.

mod fixture;
mod hostile;
mod lists;
mod maple;
mod rbtree;
mod xarray;
