//! `strftime_now`: the date as a template wants to see it.

use minijinja::{Error, ErrorKind};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The present, in UTC.
pub(super) fn now(format: &str) -> Result<String, Error> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    strftime(format, seconds)
}

/// C's directives for dates and times, after so many seconds since 1970.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let of_year = days - days_before(year);
    let (hour, minute, weekday) = (second / 3600, second / 60 % 60, ((days + 4) % 7) as usize);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[weekday]);
    let twelve = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // Without leading zeros.
        let short = directive == Some('-');
        if short {
            directive = chars.next();
        }
        let (number, width) = match directive {
            Some('Y') => (year, 4),
            Some('y') => (year % 100, 2),
            Some('m') => (month, 2),
            Some('d') => (day, 2),
            Some('j') => (of_year + 1, 3),
            Some('H') => (hour, 2),
            Some('I') => (twelve, 2),
            Some('M') => (minute, 2),
            Some('S') => (second % 60, 2),
            Some('w') => (weekday as u64, 1),
            other => {
                match other {
                    Some('B') => out.push_str(month_name),
                    Some('b' | 'h') => out.push_str(&month_name[..3]),
                    Some('A') => out.push_str(day_name),
                    Some('a') => out.push_str(&day_name[..3]),
                    Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
                    Some('F') => out += &strftime("%Y-%m-%d", seconds)?,
                    Some('T') => out += &strftime("%H:%M:%S", seconds)?,
                    Some('Z') => out.push_str("UTC"),
                    Some('z') => out.push_str("+0000"),
                    Some('%') => out.push('%'),
                    _ => {
                        let message =
                            format!("strftime_now: expected directives such as %Y, found {format:?}");
                        return Err(Error::new(ErrorKind::InvalidOperation, message));
                    }
                }
                continue;
            }
        };
        let width = if short { 0 } else { width };
        let _ = write!(out, "{number:0width$}");
    }
    Ok(out)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// Days from the beginning of 1970 to that of this year.
fn days_before(year: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
}

/// Year, month and day, the last two from 1.
fn date(days: u64) -> (u64, u64, u64) {
    // The mean year is a little longer than the divisor says, so this is the year or one too late.
    let mut year = 1970 + days / 365;
    while days_before(year) > days {
        year -= 1;
    }
    let mut left = days - days_before(year);
    for month in 1..=12 {
        let length = match month {
            2 => 28 + u64::from(is_leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        if left < length {
            return (year, month, left + 1);
        }
        left -= length;
    }
    (year + 1, 1, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let all = |seconds| strftime("%Y-%m-%d %j %a %H:%M:%S", seconds).unwrap();
        assert_eq!(all(0), "1970-01-01 001 Thu 00:00:00");
        assert_eq!(all(951_782_400), "2000-02-29 060 Tue 00:00:00");
        assert_eq!(all(1_735_689_599), "2024-12-31 366 Tue 23:59:59");
        assert_eq!(all(4_107_542_400), "2100-03-01 060 Mon 00:00:00");
        assert_eq!(strftime("%-d %B %y, %I %p %%", 1_704_110_400 + 50_400).unwrap(), "2 January 24, 02 AM %");
        assert!(strftime("%Q", 0).is_err() && strftime("%", 0).is_err());
    }
}
