//! The proof of `.ci/tsan.supp`: tests of std alone, without a line of librmap's or of `unsafe`, that ThreadSanitizer
//! reports all the same, because std is not compiled for it.

#[test]
fn threads_return_what_they_made() {
    for _ in 0..200 {
        let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || vec![n; 10])).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        std::thread::scope(|scope| {
            for n in 0..4 {
                scope.spawn(move || vec![n; 10]);
            }
        });
    }
}

#[test]
fn a_channel_hands_over() {
    let (send, receive) = std::sync::mpsc::sync_channel::<Box<usize>>(4);
    std::thread::scope(|scope| {
        scope.spawn(move || (0..20_000).for_each(|n| send.send(Box::new(n)).unwrap()));
        scope.spawn(move || receive.iter().for_each(|n| assert!(*n < 20_000)));
    });
}
