//! Promise 6: two sessions of one model, on two threads, are independent; a dropped generation frees
//! everything; cancellation works inside a prompt too.

use llama_core::synth::{Shape, Spec, Synth};
use llama_core::{Error, Model, Options, Plan, Sampler, Session, StopReason, Token};
use llama_kernels::{Cpu, CpuOptions, Format, KvType};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Counts the bytes that each thread holds; with one thread, a [`Cpu`] computes on its caller's.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        // SAFETY: as above; passed on, as the default would write the zeroes.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A small model with room for a long prompt.
fn synthetic() -> Model {
    let shape = Shape { layers: 2, vocab: 400, context: 4096, ..Shape::from_name("tiny").unwrap() };
    let file = tempfile::NamedTempFile::new().unwrap();
    Synth::new(&Spec { shape, format: Format::Q8_0.into(), seed: 5 })
        .unwrap()
        .write(file.as_file(), |_| ())
        .unwrap();
    Model::read(file.path()).unwrap()
}

fn cpu(threads: usize) -> Arc<Cpu> {
    Arc::new(Cpu::new(&CpuOptions { threads: Some(threads), isa: None, ..CpuOptions::default() }).unwrap())
}

/// The next pieces, greedily, whatever they are.
fn pieces(session: &mut Session, n: usize) -> Vec<String> {
    session.generate(&mut Sampler::greedy()).ignore_eos().take(n).map(Result::unwrap).collect()
}

/// What a new session says to a prompt.
fn answer(model: &Model, prompt: &str, n: usize) -> Vec<String> {
    let mut session = model.session(Options::default().cpu(cpu(1))).unwrap();
    session.push(prompt).unwrap();
    pieces(&mut session, n)
}

#[test]
fn two_sessions_stream_at_once() {
    let prompts = ["Once upon a time", "The rain in Spain stays mainly in the plain, they say"];
    let model = synthetic();
    let expected = prompts.map(|prompt| answer(&model, prompt, 60));
    assert_ne!(expected[0], expected[1]);
    let shared = cpu(2);
    for cpus in [[shared.clone(), shared], [cpu(2), cpu(1)]] {
        // Each waits for the other's token before it goes on, so both are in the midst of it all the
        // time. A panic drops its ends of the channels: nobody waits for ever.
        let stream = |prompt: &str, cpu: Arc<Cpu>, here: Sender<()>, there: Receiver<()>| {
            let mut session = model.session(Options::default().cpu(cpu)).unwrap();
            session.push(prompt).unwrap();
            let mut sampler = Sampler::greedy();
            let generation = session.generate(&mut sampler).ignore_eos().take(60).map(Result::unwrap);
            let turn = |_: &String| {
                let _ = here.send(());
                let _ = there.recv();
            };
            generation.inspect(turn).collect::<Vec<String>>()
        };
        let ([a, b], (to_b, from_a), (to_a, from_b)) = (cpus, channel(), channel());
        let found = std::thread::scope(|scope| {
            let first = scope.spawn(|| stream(prompts[0], a, to_b, from_b));
            let second = scope.spawn(|| stream(prompts[1], b, to_a, from_a));
            [first.join().unwrap(), second.join().unwrap()]
        });
        assert_eq!(found, expected);
    }
}

#[test]
fn two_sessions_tell_the_story_at_once() {
    let data = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/models"));
    let Ok(expected) = std::fs::read_to_string(data.join("stories260K.expected_greedy_200.txt")) else {
        return eprintln!("skipped: no {}", data.display());
    };
    let model = Model::read(data.join("stories260K.gguf")).unwrap();
    let story = || {
        let mut session = model.session(Options::default()).unwrap();
        let mut sampler = Sampler::greedy();
        session.generate(&mut sampler).take(200).collect::<llama_core::Result<String>>().unwrap()
    };
    std::thread::scope(|scope| {
        for story in [scope.spawn(story), scope.spawn(story)] {
            assert_eq!(story.join().unwrap(), expected);
        }
    });
}

#[test]
fn a_session_outlives_its_model_and_moves_to_another_thread() {
    let model = synthetic();
    let expected = answer(&model, "a b c", 5);
    let mut session = model.session(Options::default().cpu(cpu(2))).unwrap();
    drop(model);
    let found = std::thread::spawn(move || {
        session.push("a b c").unwrap();
        pieces(&mut session, 5)
    });
    assert_eq!(found.join().unwrap(), expected);
}

#[test]
fn a_dropped_generation_leaves_a_usable_session() {
    let model = synthetic();
    let expected = answer(&model, "Once", 12);
    let mut session = model.session(Options::default().cpu(cpu(1))).unwrap();
    session.push("Once").unwrap();
    let mut found = Vec::new();
    for n in [0, 1, 5, 0, 6] {
        found.extend(pieces(&mut session, n));
        assert_eq!(session.stopped(), None, "nothing but us has ended it");
    }
    assert_eq!(found.concat(), expected.concat());
    let len = session.tokens().len();
    session.push(" more").unwrap();
    assert!(session.tokens().len() > len);
    assert_eq!(pieces(&mut session, 3).len(), 3);
}

#[test]
fn dropping_frees_everything() {
    let model = synthetic();
    let talk = |session: &mut Session, tokens: usize| {
        session.forward(&vec![Token(300); tokens]).unwrap();
        drop(session.generate(&mut Sampler::new(1).temperature(1.0)).take(3).map(Result::unwrap).last());
    };
    // Once before counting: whatever the process keeps for good is there then.
    let whole = || talk(&mut model.session(Options::default().cpu(cpu(1)).context(64)).unwrap(), 20);
    whole();
    let before = LIVE.get();
    whole();
    assert_eq!(LIVE.get(), before, "a session leaves nothing behind");

    let mut session = model.session(Options::default().cpu(cpu(1)).context(64)).unwrap();
    assert!(LIVE.get() > before + 64 * 1024, "the counter counts");
    talk(&mut session, 20);
    let held = LIVE.get();
    for _ in 0..20 {
        session.clear();
        talk(&mut session, 20);
    }
    assert_eq!(LIVE.get(), held, "a generation leaves nothing behind");
}

#[test]
fn a_cache_is_as_large_as_the_plan_says() {
    let model = synthetic();
    let config = model.config();
    let cpu = cpu(1);
    let measure = |k, v| {
        let options = Options::default().cpu(cpu.clone()).context(1000).cache_type_k(k).cache_type_v(v);
        let plan = Plan::new(model.gguf(), &options).unwrap();
        let before = LIVE.get();
        let mut session = model.session(options).unwrap();
        let size = LIVE.get() - before;
        assert_eq!(pieces(&mut session, 2).len(), 2, "{k} and {v}");
        (plan.kv, size as u64)
    };
    let (half, half_size) = measure(KvType::F16, KvType::F16);
    for k in KvType::ALL {
        for v in KvType::ALL {
            let (kv, size) = measure(k, v);
            let row = k.row_bytes(config.head_dim) + v.row_bytes(config.value_dim);
            // Whole blocks of sixteen positions.
            assert_eq!(kv, (config.n_layers * config.n_kv_heads * 1008 * row) as u64, "{k} and {v}");
            assert_eq!(kv.abs_diff(half), size.abs_diff(half_size), "{k} and {v}: what is set aside");
        }
    }
    assert_eq!(measure(KvType::Q8_0, KvType::Q8_0).0 * 32, half * 17, "34 bytes for 64");
    assert_eq!(measure(KvType::Q4_0, KvType::Q4_0).0 * 32, half * 9, "18 bytes for 64");
}

#[test]
fn a_prompt_is_cancelled_from_another_thread_and_goes_on_later() {
    let model = synthetic();
    let prompt: Vec<Token> = (0..600).map(|i| Token(260 + i * 7 % 140)).collect();
    let flag = Arc::new(AtomicBool::new(false));
    let options = || Options::default().cpu(cpu(1)).ubatch(4);
    // A flag that is set too early or too late proves nothing, and nobody knows how long a thread
    // takes to start on a busy machine: try again, with another delay.
    let cancelled = (0..100).find_map(|attempt| {
        let mut session = model.session(options().cancel(flag.clone())).unwrap();
        flag.store(false, Ordering::Relaxed);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(1 << (attempt % 8)));
                flag.store(true, Ordering::Relaxed);
            });
            session.forward(&prompt).map(drop)
        });
        let evaluated = session.stats().prompt_tokens;
        match result {
            Ok(()) => assert_eq!(evaluated, prompt.len()),
            Err(Error::Cancelled) => assert!(evaluated < prompt.len()),
            Err(error) => panic!("{error}"),
        }
        (0 < evaluated && evaluated < prompt.len()).then_some(session)
    });
    let mut session = cancelled.expect("no flag was set inside of the prompt");
    assert_eq!(session.tokens(), prompt, "the session holds the whole prompt");

    // While the flag is set nothing moves.
    let evaluated = session.stats().prompt_tokens;
    assert!(matches!(session.forward(&[]), Err(Error::Cancelled)));
    assert!(pieces(&mut session, 3).is_empty());
    assert_eq!((session.stopped(), session.stats().prompt_tokens), (Some(StopReason::Cancelled), evaluated));

    flag.store(false, Ordering::Relaxed);
    let mut expected = model.session(options()).unwrap();
    expected.forward(&prompt).unwrap();
    assert_eq!(session.forward(&[]).unwrap(), expected.forward(&[]).unwrap());
    assert_eq!(pieces(&mut session, 8), pieces(&mut expected, 8));
}

#[test]
fn a_flag_that_is_set_already_cancels_at_once() {
    let model = synthetic();
    let flag = Arc::new(AtomicBool::new(true));
    let mut session = model.session(Options::default().cpu(cpu(1)).cancel(flag.clone())).unwrap();
    assert!(matches!(session.push("Once upon a time"), Err(Error::Cancelled)));
    assert_eq!(session.stats().prompt_tokens, 0);
    flag.store(false, Ordering::Relaxed);
    assert_eq!(pieces(&mut session, 9), answer(&model, "Once upon a time", 9));
}

#[test]
fn a_generation_is_cancelled_and_goes_on_later() {
    let model = synthetic();
    let expected = answer(&model, "Once", 12);
    let flag = Arc::new(AtomicBool::new(false));
    let mut session = model.session(Options::default().cpu(cpu(1)).cancel(flag.clone())).unwrap();
    session.push("Once").unwrap();
    let mut found = Vec::new();
    for piece in session.generate(&mut Sampler::greedy()).ignore_eos() {
        found.push(piece.unwrap());
        flag.store(found.len() == 5, Ordering::Relaxed);
    }
    assert_eq!((found.len(), session.stopped()), (5, Some(StopReason::Cancelled)));
    flag.store(false, Ordering::Relaxed);
    found.extend(pieces(&mut session, 7));
    assert_eq!(found.concat(), expected.concat());
}
