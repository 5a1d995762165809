//! The layers: the manual, then the file, then the environment, then flags. The last one wins.

use crate::config::appliance::{self, appliance};
use crate::config::fault::{ConfigError, Fault, Origin, line_of, shortened};
use crate::config::keys::{KEYS, Key, Raw, Value, nearest};
use crate::config::schema::{Config, Values};
use std::path::{Path, PathBuf};
use toml_edit::{Document, Item, TableLike};

/// The manual, from which the defaults are read.
pub const MANUAL: &str = include_str!("default.toml");

/// Bytes of a configuration file at most.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;

/// What is laid over the manual.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Name and text of a file.
    pub file: Option<(String, String)>,
    /// All of the process's environment.
    pub environment: Vec<(String, String)>,
    /// Flags that were given.
    pub flags: Vec<Flag>,
    /// For `basalt dev`, whose data have a folder of their own.
    pub dev: bool,
}

/// A flag that sets a key.
#[derive(Debug, Clone)]
pub struct Flag {
    /// With its dashes.
    pub flag: &'static str,
    /// The key of `KEYS` that it sets.
    pub key: &'static str,
    /// As it was typed.
    pub value: String,
}

/// The settings in force.
#[derive(Debug, Clone)]
pub struct Effective {
    /// Typed.
    pub config: Config,
    /// One for each key, in the order of the manual.
    pub settings: Vec<Setting>,
    /// What is odd but harmless.
    pub warnings: Vec<String>,
}

/// One value in force.
#[derive(Debug, Clone)]
pub struct Setting {
    /// `section.name`.
    pub key: &'static str,
    /// What holds.
    pub value: Value,
    /// Why.
    pub origin: Origin,
}

/// Lays all sources over each other.
///
/// # Errors
/// Lists every fault of every layer.
///
/// # Panics
/// Where a flag names a key that is not in `KEYS`: a fault of the program, not of its user.
pub fn effective(sources: &Sources) -> Result<Effective, ConfigError> {
    let mut layers = Layers::default();
    layers.file(None, MANUAL);
    if let Some((name, text)) = &sources.file {
        layers.file(Some(name), text);
    }
    let warnings = layers.environment(&sources.environment);
    for Flag { flag, key, value } in &sources.flags {
        let key = Key::find(key).expect("flags name keys that exist");
        layers.set(key, &key.kind.from_text(value), Origin::Flag { flag });
    }
    layers.data_directory(sources);
    let Layers { values, mut faults } = layers;
    let config = match Config::from_values(&values) {
        Ok(config) if faults.is_empty() => config,
        Ok(_) => return Err(ConfigError { faults }),
        Err(contradictions) => {
            faults.extend(contradictions);
            return Err(ConfigError { faults });
        }
    };
    let settings = KEYS.iter().filter_map(|key| {
        let (value, origin) = values.0.get(key.name)?.clone();
        Some(Setting { key: key.name, value, origin })
    });
    Ok(Effective { config, settings: settings.collect(), warnings })
}

#[derive(Default)]
struct Layers {
    values: Values,
    faults: Vec<Fault>,
}

impl Layers {
    /// Reads a file; `None` names the manual.
    fn file(&mut self, name: Option<&str>, text: &str) {
        let origin = |at: usize| match name {
            None => Origin::Default,
            Some(name) => Origin::File { name: name.to_owned(), line: line_of(text, at) },
        };
        if text.len() > FILE_BYTES_MAX {
            let what = format!("{} bytes are more than {FILE_BYTES_MAX}", text.len());
            self.fault(origin(0), what, "this is no configuration file".to_owned());
            return;
        }
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(error) => {
                let at = error.span().map_or(0, |span| span.start);
                let what = format!("no valid TOML: {}", shortened(error.message()));
                self.fault(origin(at), what, "correct this line".to_owned());
                return;
            }
        };
        if let Some(name) = name {
            self.faults.extend(appliance(name, text).err().into_iter().flat_map(|it| it.faults));
        }
        for (section, item) in document.as_table() {
            if appliance::SECTIONS.contains(&section) {
                continue;
            }
            let at = place(document.as_table(), section, item);
            match item.as_table_like() {
                Some(table) => self.section(section, table, text, &origin),
                None => self.fault(
                    origin(at),
                    format!("{} = {} stands in no section", shortened(section), shown(item, text)),
                    remedy_for_unknown(section),
                ),
            }
        }
    }

    fn section(
        &mut self,
        section: &str,
        table: &dyn TableLike,
        text: &str,
        origin: &dyn Fn(usize) -> Origin,
    ) {
        for (name, item) in table.iter() {
            let at = place(table, name, item);
            let full = format!("{section}.{name}");
            match Key::find(&full) {
                Some(key) => self.set(key, &raw(item, text), origin(at)),
                None => self.fault(
                    origin(at),
                    format!("{} = {} is no setting", shortened(&full), shown(item, text)),
                    remedy_for_unknown(&full),
                ),
            }
        }
    }

    fn environment(&mut self, environment: &[(String, String)]) -> Vec<String> {
        let variables: Vec<_> = KEYS.iter().map(|key| (key.variable(), key)).collect();
        for (variable, key) in &variables {
            if let Some((_, value)) = environment.iter().find(|(name, _)| name == variable) {
                let origin = Origin::Environment { variable: variable.clone() };
                self.set(key, &key.kind.from_text(value), origin);
            }
        }
        // Tests and benches have variables of their own, so a strange one is no fault.
        let known = |name: &str| variables.iter().any(|(variable, _)| variable == name);
        let strange = environment.iter().filter(|(name, _)| {
            name.starts_with("BASALT_") && !known(name) && !NOT_SETTINGS.contains(&name.as_str())
        });
        let names = || variables.iter().map(|(variable, _)| variable.as_str());
        let mut warnings: Vec<String> = strange
            .map(|(name, _)| match nearest(name, names()) {
                Some(near) => format!("environment {name} sets nothing; did you mean {near}?"),
                None => format!("environment {name} sets nothing"),
            })
            .collect();
        warnings.sort();
        warnings
    }

    fn set(&mut self, key: &'static Key, raw: &Raw, origin: Origin) {
        match key.kind.accept(raw) {
            Ok(value) => {
                self.values.0.insert(key.name, (value, origin));
            }
            Err(wrong) => {
                let default = self.values.0.get(key.name).map(|(value, _)| value.to_string());
                let remedy = match default.as_deref() {
                    Some("\"\"") | None => format!("use {}", key.kind.range()),
                    Some(default) => format!("use {}, such as {default}", key.kind.range()),
                };
                self.fault(origin, format!("{} = {} {wrong}", key.name, raw.shown()), remedy);
            }
        }
    }

    /// Puts the user's state folder where no data folder was named.
    fn data_directory(&mut self, sources: &Sources) {
        let name = "data.directory";
        let named = |value: &Value| *value != Value::Text(String::new());
        if self.values.0.get(name).is_none_or(|(value, _)| named(value)) {
            return;
        }
        let variable = |wanted: &str| {
            let mut all = sources.environment.iter();
            all.find(|(name, value)| name == wanted && !value.is_empty()).map(|(_, value)| value)
        };
        // The XDG specification has relative paths ignored.
        let state = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || variable("HOME").map(|home| Path::new(home).join(".local/state"));
        match state.or_else(home) {
            Some(state) => {
                let folder = state.join("basalt");
                let folder = if sources.dev { folder.join("dev") } else { folder };
                let value = Value::Text(folder.display().to_string());
                self.values.0.insert(name, (value, Origin::Default));
            }
            None => self.fault(
                Origin::Default,
                "data.directory is empty, and neither XDG_STATE_HOME nor HOME is set".to_owned(),
                "name a folder with --data DIR or data.directory".to_owned(),
            ),
        }
    }

    fn fault(&mut self, origin: Origin, what: String, remedy: String) {
        self.faults.push(Fault { origin, what, remedy });
    }
}

/// Variables with our prefix that are read elsewhere.
const NOT_SETTINGS: &[&str] = &["BASALT_VECTORS"];

fn remedy_for_unknown(name: &str) -> String {
    match nearest(name, KEYS.iter().map(|key| key.name)) {
        Some(near) => format!("did you mean {near}?"),
        None => "remove it, or see `basalt config show` for all settings".to_owned(),
    }
}

fn place(table: &dyn TableLike, name: &str, item: &Item) -> usize {
    let key = table.key(name).and_then(toml_edit::Key::span);
    key.or_else(|| item.span()).map_or(0, |span| span.start)
}

fn shown(item: &Item, text: &str) -> String {
    raw(item, text).shown()
}

fn raw(item: &Item, text: &str) -> Raw {
    if let Some(number) = item.as_integer() {
        return Raw::Integer(number);
    }
    match item.as_str() {
        Some(string) => Raw::Text(string.to_owned()),
        None => Raw::Other {
            type_name: item.type_name(),
            shown: item.span().and_then(|span| text.get(span)).unwrap_or_default().to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sources(file: &str) -> Sources {
        Sources {
            file: Some(("basalt.toml".to_owned(), file.to_owned())),
            environment: vec![("HOME".to_owned(), "/home/a".to_owned())],
            ..Sources::default()
        }
    }

    fn origin_of(effective: &Effective, key: &str) -> String {
        let setting = effective.settings.iter().find(|setting| setting.key == key).unwrap();
        setting.origin.to_string()
    }

    /// File, line, value and remedy of each refusal.
    const REFUSED: &[(&str, &str)] = &[
        (
            "[sequencing]\nmini_block_interval_ms = 0",
            "basalt.toml:2: sequencing.mini_block_interval_ms = 0 is out of range 1..=1000; \
             use 1..=1000, such as 10",
        ),
        (
            "\n[rpc]\nbatch_max = -4",
            "basalt.toml:3: rpc.batch_max = -4 is out of range 1..=100000; \
             use 1..=100000, such as 1000",
        ),
        (
            "[rpc]\nadress = \"127.0.0.1:1\"",
            "basalt.toml:2: rpc.adress = \"127.0.0.1:1\" is no setting; did you mean rpc.address?",
        ),
        (
            "[rcp]\naddress = \"127.0.0.1:1\"",
            "basalt.toml:2: rcp.address = \"127.0.0.1:1\" is no setting; \
             did you mean rpc.address?",
        ),
        (
            "rpc.address = 8545",
            "basalt.toml:1: rpc.address = 8545 is a number where an ADDRESS:PORT such as \
             127.0.0.1:8545 or [::1]:8545 is wanted; use ADDRESS:PORT, such as \"127.0.0.1:8545\"",
        ),
        (
            "[rpc]\naddress = \"localhost\"",
            "basalt.toml:2: rpc.address = \"localhost\" is not an ADDRESS:PORT such as \
             127.0.0.1:8545 or [::1]:8545; use ADDRESS:PORT, such as \"127.0.0.1:8545\"",
        ),
        (
            "[rpc]\nbatch_max = \"many\"",
            "basalt.toml:2: rpc.batch_max = \"many\" is a string where a whole number in \
             1..=100000 is wanted; use 1..=100000, such as 1000",
        ),
        (
            "[rpc]\nbatch_max = 1.5",
            "basalt.toml:2: rpc.batch_max = 1.5 is a float where a whole number in 1..=100000 \
             is wanted; use 1..=100000, such as 1000",
        ),
        (
            "[log]\nlevel = \"loud\"",
            "basalt.toml:2: log.level = \"loud\" is not one of error | warn | info | debug | \
             trace; use error | warn | info | debug | trace, such as \"info\"",
        ),
        (
            "[topology]\nrpc_seats = 65",
            "basalt.toml:2: topology.rpc_seats = 65 is out of range auto | 1..=64; \
             use auto | 1..=64, such as \"auto\"",
        ),
        (
            "rpc = 5",
            "basalt.toml:1: rpc = 5 stands in no section; remove it, or see `basalt config show` \
             for all settings",
        ),
        (
            "[sequencing]\nblock_interval_ms = 100\nmini_block_interval_ms = 200",
            "basalt.toml:3: sequencing.mini_block_interval_ms = 200 is above \
             sequencing.block_interval_ms = 100; lower sequencing.mini_block_interval_ms or raise \
             sequencing.block_interval_ms",
        ),
        (
            "[wal]\nsegment_bytes = 5000001",
            "basalt.toml:2: wal.segment_bytes = 5000001 is no multiple of 4096; use 5001216",
        ),
        (
            "[metrics]\naddress = \"127.0.0.1:8545\"",
            "basalt.toml:2: metrics.address = \"127.0.0.1:8545\" is also rpc.address; give \
             metrics a port of their own, or switch them off",
        ),
    ];

    #[test]
    fn a_refusal_has_file_line_value_and_remedy() {
        for (file, expected) in REFUSED {
            let error = effective(&sources(file)).unwrap_err();
            assert_eq!(error.to_string(), *expected, "for {file:?}");
        }
    }

    #[test]
    fn what_has_words_of_a_library_has_line_and_remedy_too() {
        for (file, start, part) in [
            ("[rpc]\naddress = ", "basalt.toml:2: no valid TOML", "correct this line"),
            ("[rpc]\n[rpc]", "basalt.toml:2: no valid TOML", "duplicate"),
            (
                "[chain]\ndev_mnemonic = \"test test\"",
                "basalt.toml:2: chain.dev_mnemonic = \"test test\" is no BIP-39 phrase",
                "use 12 to 24 English BIP-39 words",
            ),
            (
                "[chain]\nfee_recipient = \"0x12\"",
                "basalt.toml:2: chain.fee_recipient = \"0x12\" is not an address",
                "40 hexadecimal digits",
            ),
        ] {
            let error = effective(&sources(file)).unwrap_err().to_string();
            assert!(error.starts_with(start) && error.contains(part), "{error}");
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error = effective(&sources("[rpc]\nbatch_max = 0\n[log]\nlevel = 3")).unwrap_err();
        assert_eq!(error.faults.len(), 2, "{error}");
        assert!(error.to_string().contains("basalt.toml:4: log.level = 3"), "{error}");
    }

    #[test]
    fn the_last_layer_wins_and_says_where_it_is() {
        let mut sources = sources("[rpc]\nbatch_max = 2\nlogs_max = 2\ncall_gas_max = 30_000");
        sources.environment.push(("BASALT_RPC_BATCH_MAX".to_owned(), "3".to_owned()));
        sources.environment.push(("BASALT_RPC_LOGS_MAX".to_owned(), "3".to_owned()));
        let value = "4_000".to_owned();
        sources.flags.push(Flag { flag: "--batch", key: "rpc.batch_max", value });
        let effective = effective(&sources).unwrap();
        assert_eq!(effective.config.rpc.batch_max, 4_000);
        assert_eq!(effective.config.rpc.logs_max, 3);
        assert_eq!(effective.config.rpc.call_gas_max, 30_000);
        assert_eq!(origin_of(&effective, "rpc.batch_max"), "flag --batch");
        assert_eq!(origin_of(&effective, "rpc.logs_max"), "environment BASALT_RPC_LOGS_MAX");
        assert_eq!(origin_of(&effective, "rpc.call_gas_max"), "basalt.toml:4");
        assert_eq!(origin_of(&effective, "rpc.connections_max"), "default");
    }

    #[test]
    fn wrong_variables_and_flags_are_refused_by_name() {
        let mut sources = sources("");
        sources.environment.push(("BASALT_RPC_BATCH_MAX".to_owned(), "x".to_owned()));
        sources.environment.push(("BASALT_RPC_BATCH".to_owned(), "1".to_owned()));
        let value = "200000".to_owned();
        sources.flags.push(Flag { flag: "--accounts", key: "chain.dev_accounts", value });
        let error = effective(&sources).unwrap_err().to_string();
        assert!(error.contains("environment BASALT_RPC_BATCH_MAX: rpc.batch_max = \"x\""));
        assert!(error.contains("flag --accounts: chain.dev_accounts = 200000 is out of range"));
    }

    #[test]
    fn a_strange_variable_is_a_warning() {
        let mut sources = sources("");
        sources.environment.push(("BASALT_RPC_ADRESS".to_owned(), "1".to_owned()));
        sources.environment.push(("BASALT_VECTORS".to_owned(), "/v".to_owned()));
        let warnings = effective(&sources).unwrap().warnings;
        assert_eq!(
            warnings,
            ["environment BASALT_RPC_ADRESS sets nothing; did you mean BASALT_RPC_ADDRESS?"]
        );
    }

    #[test]
    fn data_have_a_folder_under_the_users_state() {
        let folder = |environment: &[(&str, &str)], dev| {
            let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            let environment = environment.collect();
            let sources = Sources { environment, dev, ..Sources::default() };
            effective(&sources).map(|e| e.config.data_directory.display().to_string())
        };
        assert_eq!(folder(&[("HOME", "/h")], false).unwrap(), "/h/.local/state/basalt");
        assert_eq!(
            folder(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")], true).unwrap(),
            "/s/basalt/dev"
        );
        assert_eq!(folder(&[("BASALT_DATA_DIRECTORY", "/d")], true).unwrap(), "/d");
        assert!(folder(&[], true).unwrap_err().to_string().contains("--data DIR"));
    }

    #[test]
    fn the_manual_has_every_key_with_meaning_range_and_default() {
        let document = Document::parse(MANUAL).unwrap();
        let mut named = Vec::new();
        for (section, item) in document.as_table() {
            for (name, item) in item.as_table_like().unwrap().iter() {
                let full = format!("{section}.{name}");
                let key = Key::find(&full).unwrap_or_else(|| panic!("{full} is in no schema"));
                let value = key.kind.accept(&raw(item, MANUAL)).unwrap();
                let comment = comment_before(section, name);
                let range = format!("Range: {}", key.kind.range());
                assert!(comment.contains(&range), "{full}: no {range:?} in\n{comment}");
                assert!(comment.contains("Default: "), "{full}: no default in\n{comment}");
                if let Value::Integer(number) = value {
                    let default = format!("Default: {number}");
                    assert!(comment.contains(&default), "{full}: no {default:?} in\n{comment}");
                }
                assert!(comment.len() > range.len() + 30, "{full}: no meaning in\n{comment}");
                named.push(full);
            }
        }
        let keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(named, keys, "the manual has the keys in the order of the schema");
        let effective = effective(&sources("")).unwrap();
        assert_eq!(effective.settings.len(), KEYS.len());
    }

    /// The comment lines right above a key, without their marks, as one line.
    fn comment_before(section: &str, name: &str) -> String {
        let start = MANUAL.find(&format!("\n[{section}]\n")).unwrap();
        let at = MANUAL[start..].find(&format!("\n{name} = ")).unwrap() + start;
        let lines = MANUAL[..at].lines().rev().take_while(|line| line.starts_with('#'));
        let mut lines: Vec<_> = lines.map(|line| line.trim_start_matches("# ")).collect();
        lines.reverse();
        lines.join(" ")
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let variables: std::collections::BTreeSet<_> = KEYS.iter().map(Key::variable).collect();
        assert_eq!(variables.len(), KEYS.len());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", key in 0..KEYS.len(), value in "\\PC{0,20}") {
            let mut sources = sources(&text);
            sources.environment.push((KEYS[key].variable(), value.clone()));
            let refused = effective(&sources).err();
            prop_assert!(refused.is_none_or(|error| !error.faults.is_empty()));
            let section = KEYS[key].name.split('.').next().unwrap_or_default();
            let name = KEYS[key].name.split('.').nth(1).unwrap_or_default();
            sources.file = Some(("f".to_owned(), format!("[{section}]\n{name} = {value}")));
            let refused = effective(&sources).err();
            prop_assert!(refused.is_none_or(|error| !error.faults.is_empty()));
        }
    }
}
