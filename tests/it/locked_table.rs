//! Somebody locks all companies at once, as an `alter table` does: everybody waits, and nobody is blamed.

use std::time::Duration;

use crate::support::{
    charging::{RETRYING, only_charged},
    crowd::Crowd,
    eventually::{PATIENCE, eventually},
    site::Site,
};

#[tokio::test]
async fn a_table_locked_for_less_than_lock_timeout_uses_up_no_attempt() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("DATABASE__LOCK_TIMEOUT", "25s");
    site.declare().await;
    let mut crowd = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_table("company_subscriptions").await;
    crowd.publish(&site, 5).await;
    let looks = async || site.waiting_for_a_lock("").await;
    eventually("it is waited for", PATIENCE, looks, |&n| n > 0).await;
    held.release().await;
    crowd.all_charged(&site, PATIENCE).await;
    assert_eq!(process.drain().await, only_charged(200));
    assert_eq!(process.said(RETRYING), 0);
    crowd.adds_up(&site).await;
}

#[tokio::test]
async fn a_table_locked_for_longer_leaves_everybody_charged() {
    let mut site = Site::new().await;
    site.set("WORKER__LANES", "2");
    site.set("DATABASE__LOCK_TIMEOUT", "200ms");
    site.declare().await;
    let mut crowd = Crowd::open(&site, 40).await;
    let mut process = site.charge().await;
    let held = site.hold_table("company_subscriptions").await;
    crowd.publish(&site, 2).await;
    let held = held.lasts_for(Duration::from_millis(700)).await;
    crowd.publish(&site, 1).await;
    held.release().await;
    crowd.all_charged(&site, PATIENCE).await;
    let counts = process.drain().await;
    assert_eq!((counts.charged, counts.dead_lettered), (120, 0));
    crowd.adds_up(&site).await;
}
