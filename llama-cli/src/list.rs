//! Lists of numbers on the command line: `1,2,4`, `1-8`, `1-8+2`, `1-8*2`.

use std::ops::RangeInclusive;

/// What one flag says: at least one number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct List(Vec<u32>);

/// Numbers in one list.
const MAX: usize = 4096;

impl List {
    /// The numbers of all lists.
    pub(crate) fn flat(lists: &[List]) -> Vec<u32> {
        lists.iter().flat_map(|list| &list.0).copied().collect()
    }
}

/// A parser of lists of numbers within a range.
pub(crate) fn list(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<List, String> + Clone + Send + Sync {
    move |text| {
        let mut numbers = Vec::new();
        for part in text.split(',') {
            let valid = extend(&mut numbers, part.trim()).is_some()
                && numbers.iter().all(|number| range.contains(number));
            if !valid {
                return Err(format!(
                    "expected at most {MAX} numbers from {} to {}, as 1,2 or as a range 1-8, 1-8+2 or 1-8*2",
                    range.start(),
                    range.end()
                ));
            }
        }
        Ok(List(numbers))
    }
}

/// Adds a number, or the numbers of a range.
fn extend(numbers: &mut Vec<u32>, part: &str) -> Option<()> {
    let Some((first, rest)) = part.split_once('-') else {
        numbers.push(part.parse().ok()?);
        return Some(());
    };
    let operator = rest.find(['+', '*']).unwrap_or(rest.len());
    let (last, step) = rest.split_at(operator);
    let next: fn(u32, u32) -> Option<u32> =
        if step.starts_with('*') { u32::checked_mul } else { u32::checked_add };
    let step = if step.is_empty() { 1 } else { step[1..].parse().ok()? };
    let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
    if first > last {
        return None;
    }
    let mut number = first;
    while number <= last {
        if numbers.len() == MAX {
            return None;
        }
        numbers.push(number);
        match next(number, step) {
            Some(larger) if larger > number => number = larger,
            // Beyond all numbers the range is complete; standing still it would never be.
            Some(_) => return None,
            None => break,
        }
    }
    Some(())
}

/// A parser of `PP,TG`.
pub(crate) fn pair(text: &str) -> Result<(u32, u32), String> {
    const LARGEST: u32 = 1 << 20;
    let number = |text: &str| text.trim().parse().ok().filter(|number| (1..=LARGEST).contains(number));
    let pair = text.split_once(',').and_then(|(pp, tg)| Some((number(pp)?, number(tg)?)));
    pair.ok_or_else(|| format!("expected two numbers from 1 to {LARGEST}, as 512,128"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Vec<u32>> {
        list(0..=1000)(text).ok().map(|list| list.0)
    }

    #[test]
    fn lists_and_ranges() {
        assert_eq!(parsed("7"), Some(vec![7]));
        assert_eq!(parsed("0,64, 128"), Some(vec![0, 64, 128]));
        assert_eq!(parsed("1-4"), Some(vec![1, 2, 3, 4]));
        assert_eq!(parsed("1-8+2"), Some(vec![1, 3, 5, 7]));
        assert_eq!(parsed("1-8*2"), Some(vec![1, 2, 4, 8]));
        assert_eq!(parsed("3-3"), Some(vec![3]));
        assert_eq!(parsed("5,1-2,100-1000*10"), Some(vec![5, 1, 2, 100, 1000]));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for bad in
            ["", ",", "1,", "a", "-1", "1-", "-", "8-1", "1-8+0", "1-8*1", "0-8*2", "1-8/2", "1-8+", "1.5"]
        {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
        assert_eq!(parsed("1001"), None);
        assert_eq!(parsed("999-1001"), None);
        assert!(list(0..=u32::MAX)("0-4294967295").is_err());
        assert_eq!(list(0..=u32::MAX)("4294967294-4294967295").unwrap().0.len(), 2);
        let message = list(1..=1024)("0").unwrap_err();
        assert!(message.contains("from 1 to 1024"), "{message}");
    }

    #[test]
    fn flags_add_up() {
        let lists: Vec<List> = ["1,2", "8"].iter().map(|text| list(0..=9)(text).unwrap()).collect();
        assert_eq!(List::flat(&lists), [1, 2, 8]);
    }

    #[test]
    fn pairs() {
        assert_eq!(pair("512,128"), Ok((512, 128)));
        for bad in ["", "512", "512,", "512,128,1", "0,128", "512,0", "a,b", "1,9999999"] {
            assert!(pair(bad).is_err(), "{bad:?}");
        }
    }
}
