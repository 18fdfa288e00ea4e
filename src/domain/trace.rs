//! The W3C trace context that an event's headers carry from hop to hop.
//! <https://www.w3.org/TR/trace-context/>

/// Characters of `tracestate` that are carried on.
const MAX_TRACESTATE_LEN: usize = 512;

/// A valid `traceparent` of version 00, and the `tracestate` that came with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    traceparent: String,
    tracestate: Option<String>,
}

impl TraceContext {
    /// Reads the headers' values. `None` if `traceparent` is not valid; a `tracestate` that is empty,
    /// too long or not printable ASCII is dropped, for it means nothing without its `traceparent`
    /// but not the other way round.
    #[must_use]
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let parts: Vec<&str> = traceparent.splitn(5, '-').collect();
        let [version, trace_id, parent_id, flags] = parts[..] else {
            return None;
        };
        let valid = version == "00"
            && is_id(trace_id, 32)
            && is_id(parent_id, 16)
            && is_lower_hex(flags, 2);
        let carried = |state: &&str| {
            (1..=MAX_TRACESTATE_LEN).contains(&state.len())
                && state.bytes().all(|byte| matches!(byte, b' '..=b'~'))
        };
        valid.then(|| Self {
            traceparent: traceparent.to_owned(),
            tracestate: tracestate.filter(carried).map(str::to_owned),
        })
    }

    /// The header's value: `00-{trace id}-{parent id}-{flags}`.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// The header's value, as it came.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        self.tracestate.as_deref()
    }

    /// The 32 hexadecimal digits that all spans of the trace share.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        &self.traceparent[3..35]
    }
}

fn is_lower_hex(text: &str, len: usize) -> bool {
    text.len() == len
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_id(text: &str, len: usize) -> bool {
    is_lower_hex(text, len) && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_context_is_kept_as_it_came() {
        let context = TraceContext::parse(VALID, Some("rojo=00f067aa0ba902b7, congo=t6")).unwrap();
        assert_eq!(context.traceparent(), VALID);
        assert_eq!(
            context.tracestate(),
            Some("rojo=00f067aa0ba902b7, congo=t6")
        );
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn an_invalid_traceparent_is_none() {
        let rows = [
            "",
            "00",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-extra",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
        ];
        for row in rows {
            assert_eq!(TraceContext::parse(row, None), None, "{row:?}");
        }
    }

    #[test]
    fn a_tracestate_that_cannot_be_carried_is_dropped_alone() {
        let long = "a".repeat(MAX_TRACESTATE_LEN + 1);
        for state in ["", "a=\n", "a=\u{1b}[0m", "é=1", long.as_str()] {
            let context = TraceContext::parse(VALID, Some(state)).unwrap();
            assert_eq!(context.tracestate(), None, "{state:?}");
        }
        let context = TraceContext::parse(VALID, Some(&long[1..])).unwrap();
        assert_eq!(context.tracestate(), Some(&long[1..]));
    }
}
