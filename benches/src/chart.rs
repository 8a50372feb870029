//! The bar chart: CPU time of each server on each row, as a multiple of the limit's.

use std::path::Path;

use plotters::prelude::*;

use crate::{
    Outcome,
    report::Report,
    servers::{LIMIT, TICKWS},
};

/// Colours of the other servers, in the order of the report.
const COLORS: [RGBColor; 6] = [
    RGBColor(0x5b, 0x5f, 0x66),
    RGBColor(0x7a, 0xa6, 0xc2),
    RGBColor(0x9c, 0x8f, 0xc0),
    RGBColor(0xc9, 0xa1, 0x6b),
    RGBColor(0x8f, 0xb5, 0x8a),
    RGBColor(0xc4, 0x8b, 0x9f),
];
const OWN: RGBColor = RGBColor(0xd6, 0x45, 0x2c);
/// Longest bar. A larger ratio gets a bar of this length, with its value beside it.
const MOST: f64 = 40.0;
const ROW_HEIGHT: u32 = 96;

pub fn draw(report: &Report, path: &Path) -> Outcome<()> {
    let rows: Vec<_> =
        report.rows.iter().filter(|row| row.servers.iter().any(|server| server.ratio.is_some())).collect();
    let names: Vec<_> = report.names().into_iter().filter(|name| *name != LIMIT).collect();
    if rows.is_empty() || names.is_empty() {
        return Ok(());
    }
    let height = 120 + ROW_HEIGHT * rows.len() as u32;
    let root = SVGBackend::new(path, (1000, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let ratios = rows.iter().flat_map(|row| &row.servers).filter_map(|server| server.ratio);
    // A failed row has no ratio. The factor leaves room for the value beside the longest bar.
    let end = ratios.fold(2.0_f64, f64::max).min(MOST) * 1.4;
    let title = format!("CPU time of the server per message, the limit = 1 ({})", report.date);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(230)
        .build_cartesian_2d((0.8..end).log_scale(), rows.len() as f64..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .max_light_lines(0)
        .x_desc("times the limit; logarithmic, less is better")
        .x_label_formatter(&|value| format!("{value}"))
        .draw()?;
    let bar = 0.84 / names.len() as f64;
    for (place, name) in names.iter().enumerate() {
        let color = if *name == TICKWS { OWN } else { COLORS[place.saturating_sub(1) % COLORS.len()] };
        let bars = rows.iter().enumerate().filter_map(|(index, row)| {
            let ratio = row.servers.iter().find(|server| server.name == *name)?.ratio?;
            let top = index as f64 + 0.08 + place as f64 * bar;
            Some((ratio, top))
        });
        let bars: Vec<_> = bars.collect();
        let rectangle = |(ratio, top): &(f64, f64)| {
            Rectangle::new([(0.8, *top), (ratio.min(MOST), top + bar * 0.9)], color.filled())
        };
        chart
            .draw_series(bars.iter().map(rectangle))?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
        let figure = |(ratio, top): &(f64, f64)| {
            Text::new(format!("{ratio:.2}"), (ratio.min(MOST) * 1.02, *top), ("sans-serif", 11))
        };
        chart.draw_series(bars.iter().map(figure))?;
    }
    for (index, row) in rows.iter().enumerate() {
        let (_, y) = chart.backend_coord(&(1.0, index as f64 + 0.42));
        root.draw(&Text::new(row.what.clone(), (14, y), ("sans-serif", 13)))?;
    }
    let lines = [(1.0, 0.0), (1.0, rows.len() as f64)];
    chart.draw_series([PathElement::new(lines.to_vec(), BLACK)])?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
