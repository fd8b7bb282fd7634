//! Steps of an input, one after the other to its end.

use arbitrary::{Arbitrary, Unstructured};

/// As many steps as the bytes have. (A `Vec` asks after each whether there is another: half of all would end there.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps<T>(pub Vec<T>);

impl<'a, T: Arbitrary<'a>> Arbitrary<'a> for Steps<T> {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut steps = Vec::new();
        while !u.is_empty() {
            steps.push(u.arbitrary()?);
        }
        Ok(Self(steps))
    }
}
