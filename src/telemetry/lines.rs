//! Log lines that name the span in which they were written.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Writer},
    },
    registry::LookupSpan,
};

use super::traces::current_span;

/// A form of log lines, with `trace_id` and `span_id` added where there is a span.
pub(super) struct WithIds<F> {
    pub(super) inner: F,
    pub(super) is_json: bool,
}

impl<S, N, L, T> FormatEvent<S, N> for WithIds<format::Format<L, T>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    format::Format<L, T>: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let Some(span) = current_span() else {
            return self.inner.format_event(context, writer, event);
        };
        let (trace_id, span_id) = (span.trace_id(), span.span_id());
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        match line.strip_prefix('{').filter(|_| self.is_json) {
            Some(rest) => {
                let ids = format!(r#"{{"trace_id":"{trace_id}","span_id":"{span_id}","#);
                writer.write_str(&ids)?;
                writer.write_str(rest)
            }
            None => {
                let line = line.trim_end_matches('\n');
                writeln!(writer, "{line} trace_id={trace_id} span_id={span_id}")
            }
        }
    }
}
