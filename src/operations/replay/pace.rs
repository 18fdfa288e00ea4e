//! How many at once, and when.

use std::time::Duration;

use tokio::time::Instant;

/// Dead letters claimed, sent and marked together, at most.
const PAGE: u32 = 500;
/// With a rate, pages a second: what is claimed is sent at once.
const PAGES_PER_SECOND: u32 = 10;

/// Bytes of the bodies of one page.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Takes up to `most` from the front, as many as fit into memory by the `bytes` of each, and at least one.
pub(super) fn page<'a, T>(rest: &mut &'a [T], most: usize, bytes: impl Fn(&T) -> i32) -> &'a [T] {
    let mut sum = 0;
    let fits = |dead_letter: &&T| {
        sum += usize::try_from(bytes(dead_letter)).unwrap_or(0);
        sum <= PAGE_BYTES
    };
    let count = rest.iter().take(most).take_while(fits).count();
    let (page, after) = rest.split_at(count.max(1).min(most).min(rest.len()));
    *rest = after;
    page
}

/// Dead letters a second, evenly.
#[derive(Debug)]
pub(super) struct Pace {
    page: u32,
    /// Between the starts of two pages; zero: as fast as it goes.
    every: Duration,
    next: Instant,
}

impl Pace {
    /// At most `rate` a second; `None`: as many as go.
    pub(super) fn new(rate: Option<u32>) -> Self {
        let (page, every) = match rate.map(|rate| rate.max(1)) {
            None => (PAGE, Duration::ZERO),
            Some(rate) => {
                let page = (rate / PAGES_PER_SECOND).clamp(1, PAGE);
                (page, Duration::from_secs(page.into()) / rate)
            }
        };
        Self {
            page,
            every,
            next: Instant::now(),
        }
    }

    /// Dead letters of one page.
    pub(super) fn page(&self) -> usize {
        self.page as usize
    }

    /// Returns when the next page may start. Time that was lost is not made up for.
    pub(super) async fn turn(&mut self) {
        if self.every.is_zero() {
            return;
        }
        tokio::time::sleep_until(self.next).await;
        self.next = self.next.max(Instant::now()) + self.every;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_cut_by_number_and_by_bytes_and_leaves_the_rest() {
        const MIB: i32 = 1024 * 1024;
        let sizes = [1, 2, 6, 9, 1];
        let mut rest = &sizes[..];
        for expected in [&[1, 2][..], &[6], &[9], &[1], &[]] {
            assert_eq!(page(&mut rest, 500, |size| size * MIB), expected);
        }
        let mut rest = &sizes[..];
        assert_eq!(page(&mut rest, 1, |size| size * MIB), [1]);
        assert_eq!(page(&mut rest, 0, |size| size * MIB), [0; 0]);
        assert_eq!(rest.len(), 4);
    }

    #[test]
    fn pages_are_small_enough_to_be_even_and_add_up_to_the_rate() {
        for (rate, page, every_us) in [
            (1, 1, 1_000_000),
            (7, 1, 142_857),
            (10, 1, 100_000),
            (250, 25, 100_000),
            (5_000, 500, 100_000),
            (50_000, 500, 10_000),
        ] {
            let pace = Pace::new(Some(rate));
            assert_eq!((pace.page(), pace.every.as_micros()), (page, every_us));
        }
        assert_eq!(Pace::new(None).page(), 500);
    }
}
