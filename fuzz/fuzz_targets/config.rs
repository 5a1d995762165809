//! Any bytes as a configuration file, as an environment value and as a genesis: never a panic, and
//! every refusal has a message.
#![no_main]

use basalt::config::{
    chain_spec::ChainSpec,
    keys::KEYS,
    overlay::{Sources, effective},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: (u8, &str)| {
    let (selector, text) = data;
    let home = ("HOME".to_owned(), "/home/fuzz".to_owned());
    let plain = Sources { environment: vec![home.clone()], ..Sources::default() };
    let key = KEYS[usize::from(selector) % KEYS.len()];
    let file = Some(("fuzz.toml".to_owned(), text.to_owned()));
    let by_file = Sources { file, ..plain.clone() };
    let environment = vec![home, (key.variable(), text.to_owned())];
    let by_variable = Sources { environment, ..plain.clone() };
    for sources in [by_file, by_variable] {
        match effective(&sources) {
            Ok(effective) => assert_eq!(effective.settings.len(), KEYS.len()),
            Err(error) => assert!(error.faults.iter().all(|fault| !fault.remedy.is_empty())),
        }
    }
    let chain = effective(&plain).expect("the manual is valid").config.chain;
    if let Err(error) = ChainSpec::from_text(&chain, "fuzz.json", text) {
        assert!(error.to_string().starts_with("fuzz.json"));
    }
});
