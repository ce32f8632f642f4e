//! Medians, ratios, and tables in Markdown that can be pasted where they are wanted.

use std::fmt;

/// The middle one; the mean of the two in the middle of an even number. Zero of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// The median over the rounds of `ours / theirs`, each pair taken within one round: what disturbs the machine for a
/// while disturbs both.
pub(crate) fn ratio<S>(ours: &[S], theirs: &[S], figure: impl Fn(&S) -> f64) -> f64 {
    median(
        ours.iter()
            .zip(theirs)
            .map(|(ours, theirs)| figure(ours) / figure(theirs)),
    )
}

/// A ratio as it stands in a table.
pub(crate) fn times(ratio: f64) -> String {
    if ratio.is_finite() {
        format!("× {ratio:.2}")
    } else {
        "–".to_owned()
    }
}

/// [`times`] of a [`ratio`], with the least and the most of the rounds where they differ.
pub(crate) fn times_and_spread<S>(ours: &[S], theirs: &[S], figure: impl Fn(&S) -> f64) -> String {
    let rounds: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| figure(ours) / figure(theirs))
        .collect();
    let middle = times(median(rounds.iter().copied()));
    let least = rounds.iter().copied().fold(f64::INFINITY, f64::min);
    let most = rounds.iter().copied().fold(0.0, f64::max);
    if least < most && most.is_finite() {
        format!("{middle} ({least:.2}–{most:.2})")
    } else {
        middle
    }
}

/// A Markdown table with its columns lined up, the first to the left, the others to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self {
            rows: vec![head.iter().map(ToString::to_string).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(3)
                .max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (line, row) in self.rows.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let width = *width;
                if column == 0 {
                    write!(f, "| {cell:<width$}")?
                } else {
                    write!(f, " | {cell:>width$}")?
                }
            }
            writeln!(f, " |")?;
            if line == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(*width - usize::from(column > 0));
                    if column == 0 {
                        write!(f, "| {dashes}")?
                    } else {
                        write!(f, " | {dashes}:")?
                    }
                }
                writeln!(f, " |")?;
            }
        }
        Ok(())
    }
}
