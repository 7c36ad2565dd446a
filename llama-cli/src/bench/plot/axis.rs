//! From values to places, and which values are worth a label.

/// What values an axis has, and between which places.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    /// The values at its ends, as logarithms if it is logarithmic.
    values: (f64, f64),
    places: (f64, f64),
    logarithmic: bool,
}

impl Axis {
    pub(super) fn linear(values: (f64, f64), places: (f64, f64)) -> Axis {
        Axis { values, places, logarithmic: false }
    }

    /// All values are above zero.
    pub(super) fn logarithmic((low, high): (f64, f64), places: (f64, f64)) -> Axis {
        Axis { values: (low.log10(), high.log10()), places, logarithmic: true }
    }

    pub(super) fn place(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let ((low, high), (from, to)) = (self.values, self.places);
        from + (value - low) / (high - low).max(f64::MIN_POSITIVE) * (to - from)
    }

    /// The values at the ends.
    pub(super) fn ends(&self) -> (f64, f64) {
        let (low, high) = self.values;
        if self.logarithmic { (10f64.powf(low), 10f64.powf(high)) } else { (low, high) }
    }

    /// Round values within the ends, none nearer to the next than `gap`.
    pub(super) fn ticks(&self, gap: f64) -> Vec<f64> {
        if self.logarithmic { self.decades(gap) } else { self.steps(gap) }
    }

    fn steps(&self, gap: f64) -> Vec<f64> {
        let ((low, high), (from, to)) = (self.values, self.places);
        let most = ((to - from).abs() / gap).floor().max(1.0);
        let least = (high - low).max(f64::MIN_POSITIVE) / most;
        let power = 10f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= least);
        let step = step.unwrap_or(least);
        (0..1000)
            .map(|i| (low / step).ceil() * step + f64::from(i) * step)
            .take_while(|tick| *tick <= high)
            .collect()
    }

    /// Powers of ten, and if there is room twice and five times these.
    fn decades(&self, gap: f64) -> Vec<f64> {
        let ((low, high), (from, to)) = (self.values, self.places);
        let decade = (to - from).abs() / (high - low).max(f64::MIN_POSITIVE);
        let digits: &[f64] = match decade {
            // The nearest of these are a factor of two apart.
            wide if 0.3 * wide >= gap => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let every = (gap / decade).ceil().max(1.0) as i32;
        let powers = (low.floor() as i32..=high.ceil() as i32).filter(|power| power.rem_euclid(every) == 0);
        let ticks = powers.flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
        ticks.filter(|tick| (low..=high).contains(&tick.log10())).collect()
    }
}

/// The same values in ascending order, without those too near to the one before.
pub(super) fn apart(mut values: Vec<f64>, axis: &Axis, gap: f64) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values.dedup();
    let mut kept: Vec<f64> = Vec::new();
    for value in values {
        if kept.last().is_none_or(|last| (axis.place(value) - axis.place(*last)).abs() >= gap) {
            kept.push(value);
        }
    }
    kept
}

/// A number as people write it, with about three digits that count.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 1.0 => 2,
        tiny => (2.0 - tiny.log10().floor()).min(6.0) as usize,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_places() {
        let up = Axis::linear((0.0, 50.0), (200.0, 100.0));
        assert_eq!((up.place(0.0), up.place(25.0), up.place(50.0)), (200.0, 150.0, 100.0));
        let log = Axis::logarithmic((1.0, 100.0), (0.0, 10.0));
        assert_eq!((log.place(1.0), log.place(10.0), log.place(100.0)), (0.0, 5.0, 10.0));
        // What a logarithm does not have is far away, and no panic.
        assert!(log.place(0.0) < -1000.0);
    }

    #[test]
    fn ticks_are_round_and_apart() {
        let axis = Axis::linear((0.0, 287.0), (0.0, 200.0));
        assert_eq!(axis.ticks(30.0), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]);
        assert_eq!(axis.ticks(60.0), [0.0, 100.0, 200.0]);
        assert_eq!(Axis::linear((0.0, 0.0), (0.0, 200.0)).ticks(30.0), [0.0]);
        let log = |low, high, gap| Axis::logarithmic((low, high), (0.0, 300.0)).ticks(gap);
        assert_eq!(log(0.5, 30.0, 30.0), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(log(0.5, 3000.0, 30.0), [1.0, 10.0, 100.0, 1000.0]);
        assert_eq!(log(1e-6, 1e6, 60.0), [1e-6, 1e-3, 1.0, 1e3, 1e6]);
    }

    #[test]
    fn labels_do_not_meet() {
        let axis = Axis::linear((0.0, 100.0), (0.0, 100.0));
        assert_eq!(apart(vec![50.0, 0.0, 9.0, 50.0, 12.0], &axis, 10.0), [0.0, 12.0, 50.0]);
    }

    #[test]
    fn numbers_as_people_write_them() {
        let all = [0.0, 0.05, 0.25, 1.0, 2.5, 10.0, 12.34, 512.0, 4096.4].map(number);
        assert_eq!(all, ["0", "0.05", "0.25", "1", "2.5", "10", "12.3", "512", "4096"]);
    }
}
