//! The publisher: bursts of events, and which of them the broker has confirmed.

use std::sync::Arc;

use lapin::{Confirmation, options::BasicPublishOptions};

use super::world::World;
use crate::support::{
    broker::{ROUTING_KEY, event_properties},
    dice::Dice,
};

pub(super) async fn publish(world: Arc<World>, mut dice: Dice) {
    let mandatory = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    while world.goes_on() {
        let mut confirms = Vec::new();
        for mut request in world.requests(&mut dice) {
            if dice.below(10) == 0 {
                request.company = None;
            }
            let body = request.event().to_string();
            let copies = 1 + u64::from(dice.below(8) == 0);
            for _ in 0..copies {
                let sent = world
                    .site
                    .broker
                    .channel()
                    .basic_publish(
                        world.site.broker.prefix().into(),
                        ROUTING_KEY.into(),
                        mandatory,
                        body.as_bytes(),
                        event_properties(),
                    )
                    .await
                    .expect("sent");
                confirms.push((sent, body.clone(), request));
            }
        }
        for (confirm, body, request) in confirms {
            assert_eq!(confirm.await.expect("answered"), Confirmation::Ack(None));
            world.told().published.insert(body, request);
        }
        world.step();
        let pause = 2 + dice.below(10);
        world.after(pause).await;
    }
}
