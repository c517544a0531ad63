//! A set of small numbers: the values that one field of an expression selects.

use std::fmt;

/// Numbers from 0 to 63.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Set(u64);

impl Set {
    /// Every `step`-th number from `low` to `high`, both included. `step` is at least 1.
    pub(crate) fn range(low: u32, high: u32, step: usize) -> Self {
        (low..=high)
            .step_by(step)
            .fold(Self(0), |set, number| Self(set.0 | 1 << number))
    }

    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Every member made greater by one.
    pub(crate) fn shifted(self) -> Self {
        Self(self.0 << 1)
    }

    pub(crate) fn contains(self, number: u32) -> bool {
        self.0 >> number & 1 == 1
    }

    pub(crate) fn len(self) -> u32 {
        self.0.count_ones()
    }

    /// How many members are smaller than `number`.
    pub(crate) fn below(self, number: u32) -> u32 {
        (self.0 & ((1 << number) - 1)).count_ones()
    }

    /// The member that has `rank` smaller members.
    pub(crate) fn nth(self, rank: u32) -> Option<u32> {
        self.iter().nth(rank as usize)
    }

    /// The smallest difference of two members; None for fewer than two.
    pub(crate) fn closest(self) -> Option<u32> {
        (1..u64::BITS).find(|difference| self.0 & self.0 >> difference != 0)
    }

    /// How much greater the greatest member is than the smallest.
    pub(crate) fn width(self) -> u32 {
        self.0
            .checked_ilog2()
            .map_or(0, |high| high - self.0.trailing_zeros())
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u32> {
        (0..u64::BITS).filter(move |number| self.contains(*number))
    }
}

/// Ranges and single numbers, ascending: `0-4,7`. One set has one text.
impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for low in self
            .iter()
            .filter(|number| *number == 0 || !self.contains(number - 1))
        {
            let high = (low..u64::BITS)
                .take_while(|number| self.contains(*number))
                .last()
                .unwrap_or(low);
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_counted_and_ranked() {
        let set = Set::range(10, 50, 20).union(Set::range(0, 0, 1));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 10, 30, 50]);
        assert_eq!(
            (set.below(0), set.below(10), set.below(11), set.below(60)),
            (0, 1, 2, 4)
        );
        assert_eq!(
            (set.nth(0), set.nth(3), set.nth(4)),
            (Some(0), Some(50), None)
        );
    }

    #[test]
    fn the_closest_members_are_found() {
        let set = |numbers: &[u32]| {
            let one = |number: &u32| Set::range(*number, *number, 1);
            numbers.iter().map(one).fold(Set::default(), Set::union)
        };
        for (numbers, closest, width) in [
            (&[][..], None, 0),
            (&[7], None, 0),
            (&[0, 63], Some(63), 63),
            (&[0, 10, 13, 59], Some(3), 59),
            (&[58, 59], Some(1), 1),
        ] {
            let found = set(numbers);
            assert_eq!((found.closest(), found.width()), (closest, width));
        }
    }

    #[test]
    fn a_set_is_shown_as_ranges() {
        let set = Set::range(0, 4, 1)
            .union(Set::range(7, 7, 1))
            .union(Set::range(58, 59, 1));
        assert_eq!(set.to_string(), "0-4,7,58-59");
        assert_eq!(set.shifted().to_string(), "1-5,8,59-60");
    }
}
