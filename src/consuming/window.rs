//! Which messages of a channel are processed, and which of these to ack now.
//!
//! An ack is a command that a quorum queue writes down, and the broker sends as much as was acked. Small acks make small
//! deliveries, these small batches, and these small acks again: a state that stays, at half the speed. So acks are
//! few and large, whatever size the batches have: at least [`Window::step`] messages, or all there are.
//!
//! `multiple` reaches only to the lowest message that isn't processed. Behind one that another lane is processing the rest
//! waits: that is soon done. Behind one that waits for a lock it is acked one by one: when nothing else is under way, or
//! when it has become much, or old.

use std::collections::VecDeque;

use crate::broker::Ack;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// It waits for somebody else's lock, and nobody waits for it.
    Aside,
    Done,
    Acked,
}

/// The messages from the lowest unacked one on.
#[derive(Debug)]
pub(super) struct Window {
    /// The tag of the first state.
    first: u64,
    states: VecDeque<State>,
    /// The states at the front that are done.
    front: usize,
    /// Neither done nor aside.
    open: usize,
    /// Processed and not acked.
    done: usize,
    /// … of these, among the front.
    done_in_front: usize,
    step: usize,
}

impl Window {
    /// Of a channel on which so many are sent ahead of their acks.
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            first: 1,
            states: VecDeque::new(),
            front: 0,
            open: 0,
            done: 0,
            done_in_front: 0,
            step: usize::from(prefetch / 8).max(1),
        }
    }

    /// The next message. The broker numbers them from 1; one that never arrives here is never acked.
    pub(super) fn delivered(&mut self, tag: u64) {
        while self.first + self.states.len() as u64 <= tag {
            self.states.push_back(State::Open);
            self.open += 1;
        }
    }

    /// This one is processed.
    pub(super) fn done(&mut self, tag: u64) {
        match self.state(tag) {
            Some(state @ State::Open) => {
                *state = State::Done;
                self.open -= 1;
            }
            Some(state @ State::Aside) => *state = State::Done,
            _ => return,
        }
        self.done += 1;
        while let Some(state) = self.states.get(self.front) {
            match state {
                State::Open | State::Aside => break,
                State::Done => self.done_in_front += 1,
                State::Acked => {}
            }
            self.front += 1;
        }
    }

    /// This one is processed later, perhaps much later.
    pub(super) fn aside(&mut self, tag: u64) {
        if let Some(state @ State::Open) = self.state(tag) {
            *state = State::Aside;
            self.open -= 1;
        }
    }

    fn state(&mut self, tag: u64) -> Option<&mut State> {
        let at = usize::try_from(tag.wrapping_sub(self.first)).ok()?;
        self.states.get_mut(at)
    }

    /// Whether anything waits for its ack.
    pub(super) fn has_done(&self) -> bool {
        self.done > 0
    }

    /// What is worth an ack by itself: all that is processed, when nothing else is under way or much of it is stuck behind
    /// one that is aside; else a step of the front.
    pub(super) fn due(&mut self) -> Vec<Ack> {
        let is_stuck = self.states.get(self.front) == Some(&State::Aside);
        if self.open == 0 || is_stuck && self.done - self.done_in_front >= 2 * self.step {
            self.all()
        } else if self.done_in_front >= self.step {
            self.front()
        } else {
            Vec::new()
        }
    }

    /// Everything that is processed.
    pub(super) fn all(&mut self) -> Vec<Ack> {
        let mut acks = self.front();
        if self.done == 0 {
            return acks;
        }
        for (tag, state) in (self.first..).zip(&mut self.states) {
            if *state == State::Done {
                *state = State::Acked;
                acks.push(Ack::One(tag));
            }
        }
        self.done = 0;
        acks
    }

    /// The front, with one command. It has to name a message that is unacked: the last of those.
    fn front(&mut self) -> Vec<Ack> {
        let mut front = self.states.iter().take(self.front);
        let last = front.rposition(|state| *state == State::Done);
        let ack = last.map(|at| Ack::UpTo(self.first + at as u64));
        self.states.drain(..self.front);
        self.first += self.front as u64;
        self.done -= self.done_in_front;
        (self.front, self.done_in_front) = (0, 0);
        ack.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefetch: u16, delivered: u64) -> Window {
        let mut window = Window::new(prefetch);
        (1..=delivered).for_each(|tag| window.delivered(tag));
        window
    }

    #[test]
    fn acks_are_large_or_of_all() {
        let mut window = of(64, 20);
        (1..=7).for_each(|tag| window.done(tag));
        assert_eq!(window.due(), []);
        window.done(8);
        assert_eq!(window.due(), [Ack::UpTo(8)]);
        assert_eq!(window.due(), []);
        (9..=19).rev().for_each(|tag| window.done(tag));
        assert_eq!(window.due(), [Ack::UpTo(19)]);
        window.done(20);
        assert_eq!(window.due(), [Ack::UpTo(20)]);
        assert!(!window.has_done());
    }

    #[test]
    fn one_that_waits_holds_up_nobody_behind_it() {
        let mut window = of(64, 30);
        window.aside(1);
        (2..=16).for_each(|tag| window.done(tag));
        assert_eq!(window.due(), []);
        window.done(17);
        let ones: Vec<Ack> = (2..=17).map(Ack::One).collect();
        assert_eq!(window.due(), ones);
        assert!(!window.has_done());
        // Those between are acked: the command names the last that isn't.
        window.done(1);
        (20..=30).for_each(|tag| window.done(tag));
        let behind: Vec<Ack> = (20..=30).map(Ack::One).collect();
        assert_eq!(window.all(), [vec![Ack::UpTo(1)], behind].concat());
        window.done(18);
        window.done(19);
        assert_eq!(window.due(), [Ack::UpTo(19)]);
        window.delivered(31);
        // Said twice, or of nothing.
        window.done(5);
        window.done(99);
        window.done(31);
        window.done(31);
        assert_eq!(window.due(), [Ack::UpTo(31)]);
    }

    #[test]
    fn behind_one_that_another_lane_processes_acks_wait_for_it() {
        let mut window = of(64, 30);
        (2..=29).for_each(|tag| window.done(tag));
        assert_eq!(window.due(), []);
        window.done(1);
        assert_eq!(window.due(), [Ack::UpTo(29)]);
    }

    #[test]
    fn beside_those_that_are_aside_all_is_acked_that_there_is() {
        let mut window = of(64, 5);
        window.aside(2);
        [1, 3, 4].into_iter().for_each(|tag| window.done(tag));
        assert_eq!(window.due(), []);
        window.aside(2);
        window.done(5);
        assert_eq!(
            window.due(),
            [1, 3, 4, 5].map(|tag| match tag {
                1 => Ack::UpTo(1),
                tag => Ack::One(tag),
            })
        );
        window.done(2);
        window.aside(2);
        assert_eq!(window.due(), [Ack::UpTo(2)]);
        assert!(!window.has_done());
    }

    #[test]
    fn a_number_that_never_came_is_never_acked() {
        let mut window = of(8, 2);
        window.delivered(4);
        [1, 2, 4].into_iter().for_each(|tag| window.done(tag));
        assert_eq!(window.due(), [Ack::UpTo(2)]);
        assert_eq!(window.all(), [Ack::One(4)]);
        window.delivered(5);
        window.done(5);
        assert_eq!((window.due(), window.all()), (vec![], vec![Ack::One(5)]));
    }
}
