//! Results: a table for people, JSON lines for programs.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

/// Collects the results of a run.
pub struct Report {
    file: File,
    machine: Value,
    rows: Vec<Row>,
}

struct Row {
    measure: String,
    unit: &'static str,
    values: Vec<f64>,
    goal: Option<Goal>,
}

/// What a median is to reach.
#[derive(Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(self, median: f64) -> bool {
        match self {
            Self::AtLeast(least) => median >= least,
            Self::AtMost(most) => median <= most,
        }
    }
}

impl Report {
    pub fn new(path: &Path) -> Self {
        // There is no target/ when Cargo builds elsewhere.
        let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let file = folder.and_then(|()| File::create(path));
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self {
            file,
            machine: crate::system::machine(),
            rows: Vec::new(),
        }
    }

    /// Results of one measure, one value for each round.
    pub fn add(
        &mut self,
        measure: impl Into<String>,
        unit: &'static str,
        values: Vec<f64>,
        goal: Option<Goal>,
    ) {
        let row = Row {
            measure: measure.into(),
            unit,
            values,
            goal,
        };
        let (low, median, high) = row.spread();
        let line = json!({
            "measure": row.measure, "unit": unit, "median": median, "min": low, "max": high, "rounds": row.values,
            "goal": row.goal.map(|goal| match goal {
                Goal::AtLeast(least) => json!({"atLeast": least}),
                Goal::AtMost(most) => json!({"atMost": most}),
            }),
            "met": row.goal.map(|goal| goal.is_met(median)),
            "machine": self.machine,
        });
        writeln!(self.file, "{line}").expect("the results can be written");
        self.rows.push(row);
    }

    /// Shows what was added since the last time.
    #[expect(
        clippy::print_stdout,
        reason = "the table is what the bench is run for"
    )]
    pub fn print(&mut self) {
        println!(
            "\n{:58} {:>10} {:>21} {:8} goal",
            "measure", "median", "min … max", "unit"
        );
        for row in self.rows.drain(..) {
            let (low, median, high) = row.spread();
            let goal = row.goal.map_or(String::new(), |goal| {
                let met = if goal.is_met(median) { "met" } else { "MISSED" };
                match goal {
                    Goal::AtLeast(least) => format!(">= {least} {met}"),
                    Goal::AtMost(most) => format!("<= {most} {met}"),
                }
            });
            let spread = format!("{} … {}", number(low), number(high));
            println!(
                "{:58} {:>10} {spread:>21} {:8} {goal}",
                row.measure,
                number(median),
                row.unit
            );
        }
    }
}

impl Row {
    /// Smallest, median, largest.
    fn spread(&self) -> (f64, f64, f64) {
        let mut values = self.values.clone();
        values.sort_by(f64::total_cmp);
        let median = match values.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => values[odd / 2],
            even => f64::midpoint(values[even / 2 - 1], values[even / 2]),
        };
        let at = |value: Option<&f64>| value.copied().unwrap_or(f64::NAN);
        (at(values.first()), median, at(values.last()))
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
