//! Mutexes of which it does not matter that whoever held one panicked: the panic itself is what is told.

use std::sync::{Mutex, MutexGuard};

/// Waits for it.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What is in it, once nobody else has it.
pub fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}
