//! Backups, restores, forgets and prunes at once, each with a cache of its own.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use icecore::id::ChunkKind;
use icecore::prune;

use crate::world::{Made, World, begin, forget, noise, try_store};
use crate::{later, now};

const WRITERS: u64 = 3;
const ROUNDS: u8 = 12;

#[test]
fn backups_restores_forgets_and_prunes_do_not_harm_each_other() {
    let world = World::new();
    world.init();
    let made: Mutex<Vec<Made>> = Mutex::default();
    let forgotten = Mutex::new(Vec::new());
    let (writing, collections) = (AtomicBool::new(true), Mutex::new(0));
    let machines: Vec<_> = (0..10).map(|n| world.open(n)).collect();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|n| {
                let (repository, made) = (&machines[n as usize], &made);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        // Some contents are shared by all, some come again, some are new.
                        let own = noise(100 + n as u8 * 20 + round, 2000);
                        let contents = [&b"always"[..], &noise(round % 4, 3000), &own];
                        let session = begin(repository);
                        let stored = try_store(repository, session, &contents).unwrap();
                        made.lock().unwrap().push(stored);
                    }
                })
            })
            .collect();
        for n in [4, 5] {
            let (repository, writing, collections) = (&machines[n], &writing, &collections);
            scope.spawn(move || {
                while writing.load(Ordering::SeqCst) {
                    let report = prune::run(repository, &later()).unwrap();
                    *collections.lock().unwrap() += report.collections.len();
                }
            });
        }
        scope.spawn(|| {
            while writing.load(Ordering::SeqCst) {
                let oldest = {
                    let mut made = made.lock().unwrap();
                    if made.len() > 4 { Some(made.remove(0)) } else { None }
                };
                if let Some(oldest) = oldest {
                    forget(&machines[6], &oldest);
                    forgotten.lock().unwrap().push(oldest);
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        for n in [7, 8] {
            let (repository, made, writing) = (&machines[n], &made, &writing);
            scope.spawn(move || {
                while writing.load(Ordering::SeqCst) {
                    let Some(one) = made.lock().unwrap().first().cloned() else { continue };
                    // Forgotten just now, perhaps: then it cannot be pinned.
                    let Ok(_session) = repository.begin_read(one.sid) else { continue };
                    let reader = repository.reader(&repository.view().unwrap()).unwrap();
                    for (id, content) in one.chunks.iter().zip(&one.contents) {
                        assert_eq!(
                            reader.get(ChunkKind::Data, id).unwrap(),
                            *content,
                            "a pinned snapshot lost something"
                        );
                    }
                }
            });
        }
        let failed = writers.into_iter().filter_map(|writer| writer.join().err()).count();
        writing.store(false, Ordering::SeqCst);
        assert_eq!(failed, 0);
    });
    let repository = world.open(11);
    prune::run(&repository, &now()).unwrap();
    let mut left: Vec<_> = repository.view().unwrap().snapshots.iter().map(|info| info.id).collect();
    let made = made.into_inner().unwrap();
    let mut expected: Vec<_> = made.iter().map(|made| made.sid).collect();
    left.sort();
    expected.sort();
    assert_eq!(left, expected);
    made.iter().for_each(|made| made.reads_back(&repository));
    world.is_whole(12);
    let count = collections.into_inner().unwrap();
    assert!(count > 0, "no collection was carried out beside the others");
    println!("{count} collections, {} snapshots forgotten", forgotten.into_inner().unwrap().len());
}
