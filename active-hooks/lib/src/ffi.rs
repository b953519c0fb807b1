//! The functions for C: `include/orthros.h`.

use crate::{Error, Handler, Hook};
use core::ffi::{c_int, c_long, c_uint, c_void};

fn errno(result: Result<(), Error>) -> c_int {
    result.map_or_else(Error::errno, |()| 0)
}

/// `orthros_on_failover`: see [`crate::on_failover`]. Returns 0 or an error number.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn orthros_on_failover(handler: Option<Handler>, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise is the same.
    errno(unsafe { crate::on_failover(handler, argument) })
}

/// `orthros_on_call`: see [`crate::on_call`]. Returns 0 or an error number.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn orthros_on_call(number: c_long, hook: Option<Hook>, argument: *mut c_void) -> c_int {
    // SAFETY: the caller's promise is the same.
    errno(unsafe { crate::on_call(number, hook, argument) })
}

/// `orthros_set_deadline`: see [`crate::set_deadline`]. Returns 0 or an error number.
#[no_mangle]
pub extern "C" fn orthros_set_deadline(milliseconds: c_uint) -> c_int {
    errno(crate::set_deadline(milliseconds))
}
