//! One picture: throughput against batch size, and the distribution of the latency.

use std::{fs, path::Path};

use anyhow::Context as _;
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, Circle, DrawingArea, IntoDrawingArea as _, IntoLogRange as _, LineSeries,
        RGBAColor, RGBColor, SVGBackend, Text,
    },
    style::{
        Color as _, IntoFont as _, TextStyle,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{
    super::output::thousands,
    figures::{BatchSize, Figures},
    latency::Latency,
};

const SIZE: (u32, u32) = (920, 360);
// Each can be read on white and on black.
const INK: RGBColor = RGBColor(0x76, 0x83, 0x90);
const GRID: RGBAColor = RGBAColor(0x76, 0x83, 0x90, 0.25);
const NOTHING: RGBAColor = RGBAColor(0, 0, 0, 0.0);
const LINE: RGBColor = RGBColor(0x2f, 0x81, 0xf7);

/// Half of the picture.
type Half<'t> = DrawingArea<SVGBackend<'t>, Shift>;

/// Draws what the picture is of, if it was measured.
pub(super) fn draw(figures: &Figures, file: &Path) -> anyhow::Result<()> {
    let (Some(sizes), Some(latency)) = (&figures.batch_sizes, &figures.latency) else {
        return Ok(());
    };
    let mut picture = String::new();
    {
        let root = SVGBackend::with_string(&mut picture, SIZE).into_drawing_area();
        let (left, right) = root.split_horizontally(SIZE.0 / 2);
        throughput(&left, sizes)?;
        distribution(&right, &latency.latency)?;
        root.present()?;
    }
    fs::write(file, picture).with_context(|| file.display().to_string())
}

fn throughput(half: &Half<'_>, sizes: &[BatchSize]) -> anyhow::Result<()> {
    let point = |size: &BatchSize| {
        let rate = size.backlog.rates.events_per_s;
        (f64::from(size.batch_max), rate)
    };
    let points: Vec<(f64, f64)> = sizes.iter().map(point).collect();
    let highest = points.iter().map(|point| point.1).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(half)
        .caption("Events charged a second", text(16))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d((0.6..1500.0).log_scale().base(2.0), 0.0..highest * 1.15)?;
    chart
        .configure_mesh()
        .x_desc("events in one transaction, at most")
        .x_label_formatter(&|batch| whole(*batch))
        .y_label_formatter(&|rate| whole(*rate))
        .y_labels(6)
        .label_style(text(12))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(NOTHING)
        .draw()?;
    chart.draw_series(LineSeries::new(points.clone(), LINE.stroke_width(2)))?;
    chart.draw_series(points.iter().map(|&at| Circle::new(at, 4, LINE.filled())))?;
    // The line rises: at the left of a point there is room.
    let style = text(12).pos(Pos::new(HPos::Right, VPos::Bottom));
    let labels = points
        .iter()
        .map(|&(batch, rate)| Text::new(whole(rate), (batch * 0.95, rate), style.clone()));
    chart.draw_series(labels)?;
    Ok(())
}

fn distribution(half: &Half<'_>, latency: &Latency) -> anyhow::Result<()> {
    let percent = |&(share, ms): &(f64, f64)| (ms, share * 100.0);
    let points: Vec<(f64, f64)> = latency.distribution.iter().map(percent).collect();
    let lowest = points.first().map_or(0.1, |point| point.0).max(0.01);
    let highest = latency.max_ms.max(lowest * 2.0);
    let mut chart = ChartBuilder::on(half)
        .caption("Publish to committed, at 500 events/s", text(16))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (lowest * 0.9..highest * 1.1).log_scale().base(2.0),
            0.0..105.0,
        )?;
    chart
        .configure_mesh()
        .x_desc("milliseconds")
        .y_desc("% of the events within")
        .x_label_formatter(&|ms| short(*ms))
        .y_label_formatter(&|percent| whole(*percent))
        .x_labels(8)
        .y_labels(6)
        .label_style(text(12))
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(NOTHING)
        .draw()?;
    chart.draw_series(LineSeries::new(points, LINE.stroke_width(2)))?;
    // The line is steep in the middle and flat in the end: there is room below the one, and at the left of the other.
    let (below, left) = (
        Pos::new(HPos::Left, VPos::Top),
        Pos::new(HPos::Right, VPos::Bottom),
    );
    for (ms, share, name, beside, room) in [
        (latency.p50_ms, 50.0, "half", 1.05, below),
        (latency.p99_ms, 99.0, "99 %", 0.95, left),
    ] {
        chart.draw_series([Circle::new((ms, share), 4, LINE.filled())])?;
        let label = format!("{name}: {} ms", short(ms));
        chart.draw_series([Text::new(label, (ms * beside, share), text(12).pos(room))])?;
    }
    Ok(())
}

fn text(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

fn whole(value: f64) -> String {
    thousands(value.round() as i64)
}

/// `0.5`, `2`, `12`.
fn short(ms: f64) -> String {
    if ms < 10.0 && ms.fract() > 0.0 {
        format!("{ms:.1}")
    } else {
        whole(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::{latency::LatencyFigures, rate::Rates, throughput::BacklogFigures};

    fn figures() -> Figures {
        let sizes = [
            (1, 990.0),
            (8, 5_100.0),
            (64, 15_200.0),
            (256, 20_400.0),
            (1024, 23_100.0),
        ];
        let size = |(batch_max, events_per_s)| BatchSize {
            batch_max,
            backlog: BacklogFigures {
                rates: Rates {
                    events_per_s,
                    rounds_events_per_s: Vec::new(),
                },
                events_per_batch: 1.0,
                messages_per_ack: 1.0,
                peak_memory_mib: None,
            },
        };
        let ms = |share: f64| 1.5 + 0.9 * share - 1.1 * (1.0 - share).ln();
        let shares = (1..1000).map(|share| f64::from(share) / 1000.0);
        Figures {
            batch_sizes: Some(sizes.map(size).into()),
            latency: Some(LatencyFigures {
                latency: Latency {
                    p50_ms: ms(0.5),
                    p99_ms: ms(0.99),
                    max_ms: ms(0.9999),
                    distribution: shares.map(|share| (share, ms(share))).collect(),
                },
                fsync_p50_ms: 0.5,
                fsync_p99_ms: 2.0,
            }),
            ..Figures::default()
        }
    }

    #[test]
    fn the_picture_shows_every_batch_size_and_has_no_background() {
        let file = tempfile::NamedTempFile::new().unwrap();
        draw(&figures(), file.path()).unwrap();
        let picture = fs::read_to_string(file.path()).unwrap();

        for shown in ["23,100", "990", "99 %: 7.5 ms", "half: 2.7 ms"] {
            assert!(picture.contains(shown), "{shown}");
        }
        assert_eq!(picture.matches("<circle").count(), 7);
        let background = format!("width=\"{}\" height=\"{}\" opacity", SIZE.0, SIZE.1);
        assert!(!picture.contains(&background));
    }
}
