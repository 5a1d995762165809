//! The layers: the manual, then the file, then the environment, then flags. The last one wins.

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
        for (section, item) in document.as_table() {
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
