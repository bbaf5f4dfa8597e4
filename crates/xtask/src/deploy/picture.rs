//! Draws panels as Grafana would place them.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels of a column and of a row of Grafana's grid.
const COLUMN: u32 = 58;
const ROW: u32 = 30;

const BACKGROUND: RGBColor = RGBColor(17, 18, 23);
const PANEL: RGBColor = RGBColor(24, 27, 31);
const EDGE: RGBColor = RGBColor(44, 48, 54);
const BRIGHT: RGBColor = RGBColor(216, 217, 218);
const DIM: RGBColor = RGBColor(142, 146, 153);
const COLORS: [RGBColor; 10] = [
    RGBColor(115, 191, 105),
    RGBColor(242, 204, 12),
    RGBColor(87, 148, 242),
    RGBColor(255, 152, 48),
    RGBColor(242, 73, 92),
    RGBColor(184, 119, 217),
    RGBColor(138, 184, 255),
    RGBColor(200, 242, 194),
    RGBColor(255, 203, 125),
    RGBColor(124, 46, 163),
];

/// How a panel shows its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The last one, large.
    Stat,
    /// What the last one is called, large.
    Name,
    /// Their course.
    Lines,
}

/// A panel, as the dashboard describes it.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) unit: String,
    /// Values that are words to a reader, and those.
    pub(super) words: Vec<(String, String)>,
    pub(super) kind: Kind,
    /// x, y, width and height in columns and rows of the grid.
    pub(super) place: [u64; 4],
}

/// The numbers of one label set.
pub(super) struct Series {
    pub(super) name: String,
    /// Seconds since the picture's beginning, and the value then.
    pub(super) points: Vec<(f64, f64)>,
}

/// A panel and what is in it, by expression.
pub(super) struct Drawn {
    pub(super) panel: Panel,
    pub(super) series: Vec<Vec<Series>>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws all of them into `file`.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(panels: &[Drawn], file: &Path) -> Result<()> {
    let rows = panels
        .iter()
        .map(|drawn| drawn.panel.place[1] + drawn.panel.place[3])
        .max();
    let size = (24 * COLUMN, rows.unwrap_or_default() as u32 * ROW);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&BACKGROUND).map_err(fault)?;
    for drawn in panels {
        let [x, y, width, height] = drawn.panel.place.map(|side| side as u32);
        let place = root
            .clone()
            .shrink((x * COLUMN, y * ROW), (width * COLUMN, height * ROW))
            .margin(3, 3, 3, 3);
        place.fill(&PANEL).map_err(fault)?;
        let (width, height) = place.dim_in_pixel();
        let edge = Rectangle::new([(0, 0), (width as i32 - 1, height as i32 - 1)], EDGE);
        place.draw(&edge).map_err(fault)?;
        write(&place, &drawn.panel.title, (8, 6), 13.0, &BRIGHT, HPos::Left)?;
        match drawn.panel.kind {
            Kind::Stat | Kind::Name => stat(&place, drawn)?,
            Kind::Lines => lines(&place, drawn)?,
        }
    }
    root.present().map_err(fault)
}

fn stat(place: &Area<'_>, drawn: &Drawn) -> Result<()> {
    let (width, height) = place.dim_in_pixel();
    let middle = (width as i32 / 2, height as i32 / 2 + 6);
    // The newest: a former primary has no value any more.
    let ends = drawn
        .series
        .iter()
        .flatten()
        .filter_map(|series| Some((series, series.points.last()?)));
    let Some((shown, (_, value))) = ends.max_by(|(_, (one, _)), (_, (other, _))| one.total_cmp(other)) else {
        return Ok(());
    };
    if drawn.panel.kind == Kind::Name {
        return write(place, &shown.name, middle, 24.0, &COLORS[0], HPos::Center);
    }
    let value = show(*value, &drawn.panel.unit);
    let word = drawn.panel.words.iter().find(|(number, _)| *number == value);
    let value = word.map_or(value, |(_, word)| word.clone());
    write(place, &value, middle, 30.0, &COLORS[0], HPos::Center)?;
    let below = (middle.0, height as i32 - 16);
    write(place, &shown.name, below, 11.0, &DIM, HPos::Center)
}

fn lines(place: &Area<'_>, drawn: &Drawn) -> Result<()> {
    let (width, height) = place.dim_in_pixel();
    let mut all: Vec<_> = drawn.series.iter().flatten().collect();
    // What there is much of comes first, and has its name below for certain.
    let peak = |series: &Series| {
        series
            .points
            .iter()
            .map(|(_, value)| value.abs())
            .fold(0.0, f64::max)
    };
    all.sort_by(|one, other| peak(other).total_cmp(&peak(one)));
    let points = || all.iter().flat_map(|series| &series.points);
    let end = points().map(|(at, _)| *at).fold(1.0, f64::max);
    let most = points().map(|(_, value)| *value).fold(0.0, f64::max);
    let least = points().map(|(_, value)| *value).fold(0.0, f64::min);
    let most = if most > least { most * 1.1 } else { least + 1.0 };
    let body = place.clone().shrink((8, 26), (width - 16, height - 50));
    let mut chart = ChartBuilder::on(&body)
        .set_label_area_size(LabelAreaPosition::Left, 58)
        .set_label_area_size(LabelAreaPosition::Bottom, 18)
        .build_cartesian_2d(0.0..end, least * 1.1..most)
        .map_err(fault)?;
    chart
        .configure_mesh()
        .bold_line_style(EDGE)
        .light_line_style(TRANSPARENT)
        .axis_style(EDGE)
        .label_style(("sans-serif", 10.0).into_font().color(&DIM))
        .y_labels(4)
        .x_labels(6)
        .y_label_formatter(&|value| show(*value, &drawn.panel.unit))
        .x_label_formatter(&|at| format!("{at:.0} s"))
        .draw()
        .map_err(fault)?;
    let mut left = 12;
    for (index, series) in all.iter().enumerate() {
        let color = COLORS[index % COLORS.len()];
        let line = LineSeries::new(series.points.iter().copied(), color.stroke_width(2));
        chart.draw_series(line).map_err(fault)?;
        let name = if series.name.is_empty() {
            "value"
        } else {
            &series.name
        };
        let wide = 7 * name.len() as i32 + 24;
        if left + wide > width as i32 {
            continue;
        }
        let y = height as i32 - 16;
        let dash = Rectangle::new([(left, y + 5), (left + 10, y + 7)], color.filled());
        place.draw(&dash).map_err(fault)?;
        write(place, name, (left + 14, y), 11.0, &DIM, HPos::Left)?;
        left += wide;
    }
    Ok(())
}

fn write(
    place: &Area<'_>,
    text: &str,
    at: (i32, i32),
    size: f64,
    color: &RGBColor,
    side: HPos,
) -> Result<()> {
    let side = match side {
        HPos::Center => Pos::new(HPos::Center, VPos::Center),
        side => Pos::new(side, VPos::Top),
    };
    let style = ("sans-serif", size).into_font().color(color).pos(side);
    place.draw(&Text::new(text.to_owned(), at, style)).map_err(fault)
}

/// A value in the words of Grafana's unit.
fn show(value: f64, unit: &str) -> String {
    let scaled = |steps: &[(f64, &str)]| {
        let step = steps
            .iter()
            .find(|(from, _)| value.abs() >= *from)
            .or(steps.last());
        let (scale, name) = step.copied().unwrap_or((1.0, ""));
        let value = value / scale;
        let digits = if value.abs() >= 100.0 || value == value.trunc() {
            0
        } else {
            1
        };
        format!("{value:.digits$}{name}")
    };
    match unit {
        "s" => scaled(&[(1.0, " s"), (1e-3, " ms"), (1e-6, " µs")]),
        "bytes" | "Bps" => scaled(&[(1048576.0, " MiB"), (1024.0, " KiB"), (1.0, " B")]),
        "percentunit" => format!("{:.1} %", value * 100.0),
        _ => scaled(&[(1e6, " M"), (1e3, " k"), (1.0, "")]),
    }
}

fn fault(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("cannot draw: {error}")
}
