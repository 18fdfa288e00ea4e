//! Whose fault an error is: the database's as a whole, which hits everybody, or that of some rows, which
//! must not stop the others.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use super::{Fault, Storage, StorageError};

/// What became of one row: its answer, or why it has none. Rows that failed together share the error.
pub type Isolated<T> = Result<T, Arc<StorageError>>;

/// For whoever can't wait for all: when so many parts in a row were busy, the rest would only wait as long each.
pub fn enough_busy(in_a_row: u32) -> bool {
    in_a_row > 3
}

impl Storage {
    /// Whether an error is about no row in particular: the database as a whole can't work, or the installation
    /// isn't complete. Where the error doesn't tell, the installation is looked at.
    pub async fn hits_everybody(&self, error: &StorageError) -> bool {
        match error.fault() {
            Fault::Busy | Fault::Transient | Fault::Rejected => false,
            Fault::Installation => self.doubt() && self.examine().await.is_err(),
            Fault::Unavailable | Fault::Disconnected => true,
        }
    }

    /// For [`isolate`]: an error that hits everybody becomes the outer one, and ends it.
    ///
    /// # Errors
    ///
    /// [`hits_everybody`](Self::hits_everybody).
    pub async fn blame<T>(
        &self,
        answer: Result<T, StorageError>,
    ) -> Result<Result<T, StorageError>, StorageError> {
        match answer {
            Err(error) if self.hits_everybody(&error).await => Err(error),
            answer => Ok(answer),
        }
    }
}

/// Asks about all rows at once. If that fails with more than having to wait, asks about one half of the groups (a
/// group: the rows of a company; most failures are one company's) and then about the other, and so on to the rows that
/// fail alone. If it had to wait (for a lock, say), asks about each group by itself. One outcome per row, in order. Where
/// `give_up` says so, told how many parts in a row had to wait, the others aren't asked and fail as the last one did.
///
/// `ask` answers with one value per row, or with an error that is about these rows. Its outer error ends
/// everything: it is about everybody, or the caller has no more time.
///
/// # Errors
///
/// The outer error of `ask`. What earlier calls of `ask` did is done.
pub async fn isolate<R: Copy, G: Eq + Hash, T, E, F>(
    rows: &[R],
    group: impl Fn(R) -> G,
    give_up: impl Fn(u32) -> bool,
    mut ask: impl FnMut(Vec<R>) -> F,
) -> Result<Vec<Isolated<T>>, E>
where
    F: Future<Output = Result<Result<Vec<T>, StorageError>, E>>,
{
    let mut outcomes: Vec<Option<Isolated<T>>> = rows.iter().map(|_| None).collect();
    let mut parts = vec![by_group(rows, group)];
    let (mut last, mut busy) = (None, 0);
    while let Some(part) = parts.pop() {
        let failed = match &last {
            Some(failed) if busy > 0 && give_up(busy) => Arc::clone(failed),
            _ => {
                // In the order in which they came, whatever group they are of: a group may turn out to be another's too.
                let mut places: Vec<usize> = part.iter().flatten().copied().collect();
                places.sort_unstable();
                match ask(places.iter().map(|&at| rows[at]).collect()).await? {
                    Ok(answers) => {
                        for (at, answer) in places.into_iter().zip(answers) {
                            outcomes[at] = Some(Ok(answer));
                        }
                        busy = 0;
                        continue;
                    }
                    Err(error) => Arc::new(error),
                }
            }
        };
        let had_to_wait = !matches!(
            failed.fault(),
            Fault::Rejected | Fault::Transient | Fault::Installation
        );
        if last.is_none() && part.len() > 1 {
            let (rows, groups) = (rows.len(), part.len());
            tracing::warn!(error.message = %failed, rows, groups, "a batch failed: asking about parts of it");
        }
        busy = if had_to_wait { busy + 1 } else { 0 };
        let smaller = if had_to_wait {
            each(part)
        } else {
            halves(part)
        };
        match smaller {
            Ok(smaller) => parts.extend(smaller.into_iter().rev()),
            Err(rows) => {
                for at in rows {
                    outcomes[at] = Some(Err(failed.clone()));
                }
            }
        }
        last = Some(failed);
    }
    let unanswered = || Err(Arc::new(StorageError::NoAnswer));
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(unanswered))
        .collect())
}

/// Places of rows, by group.
type Part = Vec<Vec<usize>>;

/// Each group; the rows, if there is only one.
fn each(part: Part) -> Result<Vec<Part>, Vec<usize>> {
    match part.len() {
        0 | 1 => Err(part.into_iter().flatten().collect()),
        _ => Ok(part.into_iter().map(|group| vec![group]).collect()),
    }
}

/// Both halves of the groups, or of the rows if there is only one group; the row, if there is only one.
fn halves(mut part: Part) -> Result<Vec<Part>, Vec<usize>> {
    if let [group] = &part[..] {
        part = group.iter().map(|&at| vec![at]).collect();
    }
    match part.len() {
        0 | 1 => Err(part.into_iter().flatten().collect()),
        len => {
            let second = part.split_off(len / 2);
            Ok(vec![part, second])
        }
    }
}

/// Where the rows of each group are, in order of first appearance.
fn by_group<R: Copy, G: Eq + Hash>(rows: &[R], group: impl Fn(R) -> G) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut places = HashMap::new();
    for (at, &row) in rows.iter().enumerate() {
        let place = *places.entry(group(row)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(at);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows are a company and a number. Asks that hold a row for which `fails` says so fail like that.
    async fn told(
        rows: &[(char, u32)],
        fails: impl Fn((char, u32)) -> Option<StorageError>,
    ) -> (String, usize) {
        let mut asks = 0;
        let outcomes = isolate(
            rows,
            |row| row.0,
            enough_busy,
            |some: Vec<(char, u32)>| {
                asks += 1;
                let error = some.iter().find_map(|&row| fails(row));
                std::future::ready(Ok::<_, ()>(error.map_or_else(|| Ok(some), Err)))
            },
        )
        .await
        .expect("nothing ends it");
        let said = |(row, outcome): (&(char, u32), Isolated<_>)| match outcome {
            Ok(answer) => {
                assert_eq!(answer, *row);
                '+'
            }
            Err(_) => '-',
        };
        (rows.iter().zip(outcomes).map(said).collect(), asks)
    }

    fn odd() -> StorageError {
        StorageError::Unexpected {
            function: "f",
            answer: "odd".into(),
        }
    }

    #[tokio::test]
    async fn one_row_that_fails_is_found_and_its_company_goes_on() {
        let rows = [('a', 1), ('b', 2), ('a', 3), ('b', 4), ('c', 5)];
        let (said, asks) = told(&rows, |row| (row.1 == 3).then(odd)).await;
        // All, a, both of a, b with c.
        assert_eq!((said.as_str(), asks), ("++-++", 5));
        assert_eq!(told(&rows, |_| None).await, ("+++++".to_owned(), 1));
        let asked = isolate(
            &rows,
            |row| row.0,
            enough_busy,
            |some: Vec<(char, u32)>| {
                assert_eq!(some, rows, "in their own order");
                std::future::ready(Ok::<_, ()>(Ok(some)))
            },
        );
        asked.await.expect("nothing ends it");
        assert_eq!(told(&[], |_| None).await, (String::new(), 1));
    }

    #[tokio::test]
    async fn what_has_to_wait_is_not_asked_row_by_row_and_not_for_ever() {
        let busy = || StorageError::NoAnswer;
        let rows = [('a', 1), ('a', 2), ('b', 3)];
        assert_eq!(
            told(&rows, |row| (row.0 == 'a').then(busy)).await,
            ("--+".to_owned(), 3)
        );
        assert_eq!(
            told(&rows[..2], |_| Some(busy())).await,
            ("--".to_owned(), 1)
        );
        let many: Vec<(char, u32)> = ('a'..='z').zip(0..).collect();
        assert_eq!(told(&many, |_| Some(busy())).await, ("-".repeat(26), 4));
        let (said, _) = told(&many, |row| (row.1 % 3 < 2).then(busy)).await;
        assert_eq!(said, "--+".repeat(8) + "--");
    }
}
