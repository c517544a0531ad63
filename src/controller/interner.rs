//! Values that thousands of buckets have in common are kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// The values are looked through for unused ones when there are so many more of them than after the last time.
const MANY_MORE: usize = 64;

/// Values in use, and a few that are not any more.
#[derive(Debug)]
pub(super) struct Interner<T: ?Sized> {
    values: HashSet<Arc<T>>,
    used: usize,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            used: 0,
        }
    }
}

impl<T: Eq + Hash + ?Sized> Interner<T> {
    /// The one that is kept of all that are equal to `value`.
    pub(super) fn intern(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return known.clone();
        }
        if self.values.len() > self.used + self.used.max(MANY_MORE) {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.used = self.values.len();
        }
        self.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once() {
        let mut interner = Interner::<str>::default();
        let (one, other) = (
            interner.intern("same".into()),
            interner.intern("same".into()),
        );
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(interner.values.len(), 1);
    }

    #[test]
    fn what_nobody_uses_any_more_is_not_kept() {
        let mut interner = Interner::<str>::default();
        let in_use = interner.intern("used".into());
        for number in 0..1000 {
            interner.intern(number.to_string().into());
        }
        assert!(
            interner.values.len() <= 2 * MANY_MORE,
            "{}",
            interner.values.len()
        );
        assert!(Arc::ptr_eq(&in_use, &interner.intern("used".into())));
    }
}
