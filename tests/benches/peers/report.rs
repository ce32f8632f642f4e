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
    median(ratios(ours, theirs, figure))
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
    let rounds = ratios(ours, theirs, figure);
    match (rounds.first(), rounds.last()) {
        (Some(least), Some(most)) => between(&rounds, *least, *most),
        _ => times(0.0),
    }
}

/// [`times`] of a [`ratio`], with where the middle half of the rounds lies: of many short ones the ends say only what else the
/// machine did.
pub(crate) fn times_and_middle_half<S>(
    ours: &[S],
    theirs: &[S],
    figure: impl Fn(&S) -> f64,
) -> String {
    let rounds = ratios(ours, theirs, figure);
    match (
        rounds.get(rounds.len() / 4),
        rounds.get(rounds.len() * 3 / 4),
    ) {
        (Some(low), Some(high)) => between(&rounds, *low, *high),
        _ => times(0.0),
    }
}

fn between(rounds: &[f64], low: f64, high: f64) -> String {
    let middle = times(median(rounds.iter().copied()));
    if low < high && high.is_finite() {
        format!("{middle} ({low:.2}–{high:.2})")
    } else {
        middle
    }
}

/// Of each round, the least first.
fn ratios<S>(ours: &[S], theirs: &[S], figure: impl Fn(&S) -> f64) -> Vec<f64> {
    let mut rounds: Vec<f64> = ours
        .iter()
        .zip(theirs)
        .map(|(ours, theirs)| figure(ours) / figure(theirs))
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds
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
