//! What goes wrong meanwhile: sessions are ended, processes killed, servers restarted; and the operator, who
//! replays and reconciles through it all.

use std::sync::Arc;
use std::time::Duration;

use super::{callers::connect, world::World};
use crate::support::{dice::Dice, eventually::PATIENCE, is_long, process::Process};

pub(super) fn serve(world: &World) -> Process {
    Process::start(&["serve"], &world.site.environment())
}

/// Breaks things until the load ends; the processes that live then, and what was done to them.
pub(super) async fn havoc(world: Arc<World>, mut dice: Dice) -> (Vec<Process>, Havoc) {
    let mut processes = vec![serve(&world), serve(&world)];
    let mut done = Havoc::default();
    while world.goes_on() {
        let pause = 30 + dice.below(250);
        world.after(pause).await;
        match dice.below(if is_long() { 40 } else { 6 }) {
            0..4 if is_long() => {
                world.servers.restart_postgres().await;
                done.restarts += 1;
            }
            4 | 5 | 11..20 => {
                let victim = usize::try_from(dice.below(2)).expect("small");
                processes[victim].kill9().await;
                processes[victim] = serve(&world);
                done.kills += 1;
            }
            _ => done.terminated += terminate(&world, &mut dice).await,
        }
    }
    (processes, done)
}

#[derive(Debug, Default)]
pub(super) struct Havoc {
    pub(super) restarts: u64,
    pub(super) kills: u64,
    pub(super) terminated: u64,
}

/// Ends one to four sessions of this database, whoever's they are.
async fn terminate(world: &World, dice: &mut Dice) -> u64 {
    let mut connection = connect(world).await;
    let ended: sqlx::Result<i64> = sqlx::query_scalar(
        "select count(*) filter (where pg_terminate_backend(pid)) from (
             select pid from pg_stat_activity
             where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
             order by md5(pid || $1) limit $2) victims",
    )
    .bind(dice.below(u64::from(u32::MAX)).to_string())
    .bind(1 + i64::try_from(dice.below(4)).expect("small"))
    .fetch_one(&mut connection)
    .await;
    ended.map_or(0, |ended| u64::try_from(ended).expect("a count"))
}

/// Replays all that is open and sweeps what is pending, again and again; now and then it is killed at it.
pub(super) async fn operate(world: Arc<World>, mut dice: Dice) {
    let commands: [&[&str]; 3] = [
        &[
            "dlq",
            "replay",
            "--all",
            "--yes",
            "--no-wait",
            "--as",
            "torture",
        ],
        &[
            "dlq",
            "replay",
            "--reason",
            "retries_exhausted",
            "--yes",
            "--no-wait",
        ],
        &["reconcile", "--older-than", "1s"],
    ];
    while world.goes_on() {
        let pause = 50 + dice.below(200);
        world.after(pause).await;
        let args: &[&str] = dice.one::<&[&str]>(&commands);
        let mut command = Process::start(args, &world.site.environment());
        let killed = dice.below(3) == 0;
        if killed {
            let steps = dice.below(30);
            world.after(steps).await;
            command.kill9().await;
        } else {
            let code = command.wait(Duration::from_secs(90)).await;
            // Its session may have been ended, the server may be restarting, and much may be against its plan.
            assert!(
                matches!(code, Some(0 | 1 | 3)),
                "{code:?}: {:#?}",
                command.log()
            );
        }
        world.step();
    }
}

pub(super) async fn stop(processes: Vec<Process>) {
    for mut process in processes {
        process.terminate().await;
        assert_eq!(process.wait(PATIENCE).await, Some(0), "it drains");
    }
}
