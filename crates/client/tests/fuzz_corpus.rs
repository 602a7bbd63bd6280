//! Runs the fuzzed properties over the corpus and over random bytes.
#![expect(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../../../fuzz/properties.rs"]
mod properties;

use std::fs;
use std::path::Path;

use proptest::prelude::*;

use properties::PROPERTIES;

#[test]
fn every_property_holds_for_its_corpus() {
    for (name, property) in PROPERTIES {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let mut count = 0;
        for entry in fs::read_dir(directory).unwrap() {
            property(&fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 1, "{name} has no corpus");
    }
}

proptest! {
    #[test]
    fn every_property_holds_for_random_bytes(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        for (_, property) in PROPERTIES {
            property(&data);
        }
    }

    #[test]
    fn every_property_holds_for_a_corpus_that_was_damaged(
        at in any::<proptest::sample::Index>(), which in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let (name, property) = PROPERTIES[which.index(PROPERTIES.len())];
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name)).unwrap() {
            let mut data = fs::read(entry.unwrap().path()).unwrap();
            let place = at.index(data.len());
            data[place] = byte;
            property(&data);
        }
    }
}
