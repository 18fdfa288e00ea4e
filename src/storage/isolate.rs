//! Whose fault an error is: the database's as a whole, which hits everybody, or that of some rows, which
//! must not stop the others.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use super::{Fault, Storage, StorageError};

/// What became of one row: its answer, or why it has none. Rows that failed together share the error.
pub type Isolated<T> = Result<T, Arc<StorageError>>;

/// For whoever can't wait for all: when so many groups or rows in a row were busy, the rest would only wait as long
/// each.
pub fn enough_busy(in_a_row: u32) -> bool {
    in_a_row >= 3
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

/// Asks about all rows at once. If that fails, asks about each group of them (a company's: most failures, such as
/// a held lock, are one company's), and about each single row of a group that fails with more than having to wait.
/// One outcome per row, in order. Where `give_up` says so, told how many in a row had to wait, the others aren't asked
/// and fail as the last one did.
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
    let error = match ask(rows.to_vec()).await? {
        Ok(answers) => return Ok(answers.into_iter().map(Ok).collect()),
        Err(error) => Arc::new(error),
    };
    let mut groups = by_group(rows, group);
    if groups.len() > 1 {
        let (rows, groups) = (rows.len(), groups.len());
        tracing::warn!(error.message = %error, rows, groups, "a batch failed: asking about each group of it");
    }
    // The only group has just been asked about.
    let mut asked = (groups.len() == 1).then(|| error.clone());
    let (mut last, mut busy) = (error, 0);
    let mut outcomes: Vec<Option<Isolated<T>>> = rows.iter().map(|_| None).collect();
    groups.reverse();
    while let Some(part) = groups.pop() {
        let failed = match asked.take() {
            Some(error) => error,
            None if give_up(busy) => last.clone(),
            None => {
                let these = part.iter().map(|&at| rows[at]).collect();
                match ask(these).await? {
                    Ok(answers) => {
                        for (&at, answer) in part.iter().zip(answers) {
                            outcomes[at] = Some(Ok(answer));
                        }
                        busy = 0;
                        continue;
                    }
                    Err(error) => Arc::new(error),
                }
            }
        };
        let may_be_one_rows = matches!(
            failed.fault(),
            Fault::Rejected | Fault::Transient | Fault::Installation
        );
        if may_be_one_rows && part.len() > 1 {
            groups.extend(part.into_iter().rev().map(|at| vec![at]));
            continue;
        }
        busy = if may_be_one_rows { 0 } else { busy + 1 };
        for at in part {
            outcomes[at] = Some(Err(failed.clone()));
        }
        last = failed;
    }
    let unanswered = || Err(Arc::new(StorageError::NoAnswer));
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(unanswered))
        .collect())
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
        // All, a, both of a, b, c.
        assert_eq!((said.as_str(), asks), ("++-++", 6));
        assert_eq!(told(&rows, |_| None).await, ("+++++".to_owned(), 1));
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
