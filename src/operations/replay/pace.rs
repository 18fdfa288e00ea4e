//! How many at once, and when.

use std::time::Duration;

use tokio::time::Instant;

/// Letters claimed, sent and marked together, at most.
const PAGE: u32 = 500;
/// With a rate, pages a second: what is claimed is sent at once.
const PAGES_PER_SECOND: u32 = 10;

/// Letters a second, evenly.
#[derive(Debug)]
pub struct Pace {
    page: u32,
    /// Between the starts of two pages; zero: as fast as it goes.
    every: Duration,
    next: Instant,
}

impl Pace {
    /// At most `rate` letters a second; `None`: as many as go.
    pub fn new(rate: Option<u32>) -> Self {
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

    /// Letters of one page.
    pub fn page(&self) -> usize {
        self.page as usize
    }

    /// Returns when the next page may start. Time that was lost is not made up for.
    pub async fn turn(&mut self) {
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
