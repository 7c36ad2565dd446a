//! Statistics of few values.

/// The mean; zero of nothing.
pub(super) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// The standard deviation of a sample; zero of less than two values.
pub(super) fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (values.len() - 1) as f64).sqrt() }
}

/// The middle value, or the mean of the two in the middle; zero of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

/// The smallest value that so many per cent of all do not exceed; zero of nothing.
pub(super) fn percentile(values: &[f64], percent: usize) -> f64 {
    let rank = (values.len() * percent).div_ceil(100).max(1);
    sorted(values).get(rank - 1).copied().unwrap_or(0.0)
}

pub(super) fn min(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::min).unwrap_or(0.0)
}

pub(super) fn max(values: &[f64]) -> f64 {
    values.iter().copied().reduce(f64::max).unwrap_or(0.0)
}

/// How far apart the smallest and the largest are, as a share of the median.
pub(super) fn spread(values: &[f64]) -> f64 {
    let median = median(values);
    if median > 0.0 { (max(values) - min(values)) / median } else { 0.0 }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_some_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!((mean(&values), median(&values), min(&values), max(&values)), (2.5, 2.5, 1.0, 4.0));
        assert_eq!(deviation(&values), (5.0f64 / 3.0).sqrt());
        assert_eq!(spread(&values), 3.0 / 2.5);
        assert_eq!(median(&[10.0, 1.0, 11.0]), 10.0);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&hundred, 95), percentile(&hundred, 50), percentile(&values, 95)),
            (95.0, 50.0, 4.0)
        );
    }

    #[test]
    fn of_one_and_of_none() {
        assert_eq!(
            (mean(&[7.0]), deviation(&[7.0]), median(&[7.0]), percentile(&[7.0], 95)),
            (7.0, 0.0, 7.0, 7.0)
        );
        assert_eq!(
            (mean(&[]), deviation(&[]), median(&[]), percentile(&[], 95), spread(&[])),
            (0.0, 0.0, 0.0, 0.0, 0.0)
        );
    }
}
