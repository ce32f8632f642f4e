//! A TOML table as its reader takes it apart: each key is asked for by name and type, and what nobody asked for is unknown.
//! Every mistake is noted with its place and reading goes on, so that a file tells all of its mistakes at once. Pure.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::listeners::Named;
use super::near::alike;
use super::{clean, foreign};

/// Where something stands in a file. Lines and columns count from one, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spot {
    pub file: Arc<str>,
    pub line: usize,
    pub column: usize,
}

/// `gateway.toml:12`.
impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// What is wrong with a configuration: a sentence, and where in the file it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `None` for what does not stand in a file.
    pub spot: Option<Spot>,
    /// The key with all of its tables; empty where no key is to blame.
    pub key: String,
    pub text: String,
}

impl Problem {
    /// Of what stands in no file.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            spot: None,
            key: String::new(),
            text: text.into(),
        }
    }
}

/// `gateway.toml:12:5: listeners.web.adress: unknown key; …`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(spot) = &self.spot {
            write!(f, "{spot}:{}: ", spot.column)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// Where the keys of a table stand: `balance`, `check.path`.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(HashMap<String, Spot>);

impl Places {
    pub(super) fn of(&self, key: &str) -> Option<&Spot> {
        self.0.get(key)
    }
}

/// Where some keys of a table stand, kept small: there may be a million tables of a kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    file: Arc<str>,
    at: Box<[(&'static str, u32, u32)]>,
}

impl Marks {
    pub(super) fn of(&self, key: &str) -> Option<Spot> {
        let (_, line, column) = self.at.iter().find(|(known, ..)| *known == key)?;
        Some(Spot {
            file: Arc::clone(&self.file),
            line: *line as usize,
            column: *column as usize,
        })
    }
}

/// A file's text, and what is wrong with it so far.
#[derive(Debug)]
pub(super) struct Document<'a> {
    name: Arc<str>,
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    problems: RefCell<Vec<(usize, Problem)>>,
    /// Those of them that are so whatever else the file says.
    sure: RefCell<Vec<usize>>,
    /// The keys that its reader knows, by table.
    #[cfg(test)]
    pub(super) known: RefCell<Vec<(String, Vec<String>)>>,
}

impl<'a> Document<'a> {
    pub(super) fn new(name: &str, text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        Self {
            name: name.into(),
            text,
            lines: std::iter::once(0).chain(ends).collect(),
            problems: RefCell::default(),
            sure: RefCell::default(),
            #[cfg(test)]
            known: RefCell::default(),
        }
    }

    pub(super) fn spot(&self, at: usize) -> Spot {
        let line = self.lines.partition_point(|begin| *begin <= at).max(1);
        let begin = self.lines[line - 1];
        let before = self.text.get(begin..at).unwrap_or_default();
        Spot {
            file: Arc::clone(&self.name),
            line,
            column: before.chars().count() + 1,
        }
    }

    pub(super) fn complain(&self, at: usize, key: &str, text: impl Into<String>) {
        let problem = Problem {
            spot: Some(self.spot(at)),
            key: key.to_owned(),
            text: text.into(),
        };
        self.problems.borrow_mut().push((at, problem));
    }

    /// The same of what is wrong whatever else the file says.
    fn complain_for_sure(&self, at: usize, key: &str, text: impl Into<String>) {
        self.sure.borrow_mut().push(self.problems.borrow().len());
        self.complain(at, key, text);
    }

    /// What is wrong before a place whatever stands behind it.
    pub(super) fn sure_problems_before(self, end: usize) -> Vec<Problem> {
        let sure = self.sure.into_inner().into_iter();
        let problems = self.problems.into_inner();
        let found = sure.filter_map(|at| problems.get(at));
        let found = found.filter(|(at, _)| *at < end);
        found.map(|(_, problem)| problem.clone()).collect()
    }

    /// What is wrong, in the order of the file.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|(at, _)| *at);
        problems.into_iter().map(|(_, problem)| problem).collect()
    }
}

/// A table that is being taken apart.
#[derive(Debug)]
pub(super) struct Table<'d> {
    document: &'d Document<'d>,
    /// `listeners.web`, or empty for the whole file.
    path: String,
    /// Where it begins.
    pub(super) at: usize,
    table: &'d DeTable<'d>,
    asked: Vec<Cow<'static, str>>,
}

/// What is to stand as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Text,
    Number,
    /// Such as a time, which has a unit or counts seconds.
    Either,
}

impl Due {
    fn words(self) -> &'static str {
        match self {
            Self::Text => "a string",
            Self::Number => "a whole number",
            Self::Either => "a string or a whole number",
        }
    }
}

/// One value.
#[derive(Debug)]
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    pub(super) key: String,
    at: Range<usize>,
    value: &'d DeValue<'d>,
}

impl<'d> Table<'d> {
    /// The whole file.
    pub(super) fn root(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        Self {
            document,
            path: String::new(),
            at: 0,
            table,
            asked: Vec::new(),
        }
    }

    /// The value of a key, if there is one.
    pub(super) fn take(&mut self, key: impl Into<Cow<'static, str>>) -> Option<Value<'d>> {
        let key = key.into();
        let found = self.table.get(&*key).map(|value| self.value(&key, value));
        self.asked.push(key);
        found
    }

    fn value(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Value<'d> {
        Value {
            document: self.document,
            key: self.key(key),
            at: value.span(),
            value: value.get_ref(),
        }
    }

    /// The table at a key.
    pub(super) fn table(&mut self, key: impl Into<Cow<'static, str>>) -> Option<Self> {
        self.take(key)?.table()
    }

    /// Where those of these keys stand that it has.
    pub(super) fn marks(&self, keys: &[&'static str]) -> Marks {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let mark = |key: &&'static str| {
            let value = self.table.get(*key)?;
            let Spot { line, column, .. } = self.document.spot(value.span().start);
            Some((*key, number(line), number(column)))
        };
        Marks {
            file: Arc::clone(&self.document.name),
            at: keys.iter().filter_map(mark).collect(),
        }
    }

    /// Where each of its keys stands, and those of the tables in it.
    pub(super) fn places(&self) -> Places {
        let mut places = Places::default();
        self.note_places("", self.table, &mut places);
        places
    }

    fn note_places(&self, before: &str, table: &DeTable<'_>, places: &mut Places) {
        for (name, value) in table {
            let key = format!("{before}{}", name.get_ref());
            if let DeValue::Table(within) = value.get_ref() {
                self.note_places(&format!("{key}."), within, places);
            }
            let spot = self.document.spot(value.span().start);
            places.0.insert(key, spot);
        }
    }

    /// Every key of a table whose keys are names of the user's own, in the order of the file.
    pub(super) fn entries(self) -> Vec<(String, Value<'d>)> {
        let mut all: Vec<_> = self
            .table
            .iter()
            .map(|(name, value)| {
                let name = name.get_ref().to_string();
                let value = self.value(&name, value);
                (name, value)
            })
            .collect();
        all.sort_by_key(|(_, value)| value.at.start);
        all
    }

    pub(super) fn complain(&self, text: impl Into<String>) {
        self.document.complain(self.at, &self.path, text);
    }

    /// Of one of its keys; of all of it where that is not given.
    pub(super) fn complain_of(&self, key: &str, text: impl Into<String>) {
        match self.table.get(key) {
            Some(value) => self.value(key, value).complain(text),
            None => self.complain(text),
        }
    }

    /// How much is wrong with the file so far.
    pub(super) fn complaints(&self) -> usize {
        self.document.problems.borrow().len()
    }

    pub(super) fn spot(&self) -> Spot {
        self.document.spot(self.at)
    }

    /// Notes every key that was not asked for; `elsewhere` knows the table in which a key would be right.
    pub(super) fn finish(self, elsewhere: impl Fn(&str) -> Option<String>) {
        #[cfg(test)]
        {
            let known = self.asked.iter().map(ToString::to_string).collect();
            let mut tables = self.document.known.borrow_mut();
            tables.push((self.path.clone(), known));
        }
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if self.asked.iter().any(|asked| asked == name) {
                continue;
            }
            let foreign = || {
                let known = |key: &str| self.asked.iter().any(|asked| asked == key);
                foreign::counterpart(name, &self.path, known)
            };
            let slip = || Some(format!("did you mean `{}`?", self.alike(name)?));
            let text = match (elsewhere(name), foreign().or_else(slip)) {
                (Some(table), _) => format!("unknown key here; it belongs {table}"),
                (None, Some(advice)) => format!("unknown key; {advice}"),
                (None, None) => {
                    let mut known: Vec<&str> = self.asked.iter().map(AsRef::as_ref).collect();
                    known.sort_unstable();
                    known.dedup();
                    format!("unknown key; known here: {}", known.join(", "))
                }
            };
            self.document
                .complain_for_sure(key.span().start, &self.key(name), text);
        }
    }

    fn alike(&self, name: &str) -> Option<&str> {
        alike(name, self.asked.iter().map(AsRef::as_ref))
    }

    /// A key with all of its tables.
    pub(super) fn key(&self, name: &str) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let name = if !name.is_empty() && name.chars().all(plain) {
            Cow::Borrowed(name)
        } else {
            Cow::Owned(format!("{name:?}"))
        };
        if self.path.is_empty() {
            name.into_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }
}

impl<'d> Value<'d> {
    /// What it is called, and where it stands.
    pub(super) fn named(&self) -> Named {
        Named::Key {
            key: self.key.clone(),
            spot: self.spot(),
        }
    }

    pub(super) fn spot(&self) -> Spot {
        self.document.spot(self.at.start)
    }

    pub(super) fn complain(&self, text: impl Into<String>) {
        let text = self.with_cut(text.into());
        self.document.complain(self.at.start, &self.key, text);
    }

    /// The same of what is wrong whatever else the file says.
    fn complain_for_sure(&self, text: impl Into<String>) {
        let text = self.with_cut(text.into());
        self.document
            .complain_for_sure(self.at.start, &self.key, text);
    }

    fn with_cut(&self, text: String) -> String {
        match self.value {
            DeValue::String(value) => clean::with_cut(text, value),
            _ => text,
        }
    }

    /// Says of what type it is, and that `wanted`.
    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        self.complain_for_sure(format!("this is {}; {wanted}", kind(self.value)));
        None
    }

    /// A string.
    pub(super) fn text(&self) -> Option<&'d str> {
        match self.value {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.wrong("a string is due"),
        }
    }

    /// A string, or a whole number as its digits: what can be written on a command line.
    pub(super) fn word(&self) -> Option<Cow<'d, str>> {
        match self.value {
            DeValue::String(text) => Some(Cow::Borrowed(text.as_ref())),
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => Some(Cow::Owned(number.to_string())),
                    Err(error) => {
                        self.complain(format!("`{number}`: {error}"));
                        None
                    }
                }
            }
            _ => self.wrong("a string or a whole number is due"),
        }
    }

    /// What `parse` makes of a string or a whole number.
    pub(super) fn parsed<T, E: fmt::Display>(
        &self,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.read(Due::Either, parse)
    }

    /// What `parse` makes of a string.
    pub(super) fn text_parsed<T, E: fmt::Display>(
        &self,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.read(Due::Text, parse)
    }

    /// What `parse` makes of a whole number.
    pub(super) fn number_parsed<T, E: fmt::Display>(
        &self,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        self.read(Due::Number, parse)
    }

    /// What `parse` makes of a value of the type that is due. Of one of another type it is asked as well: what it says of values
    /// in general helps more than what their type is.
    pub(super) fn read<T, E: fmt::Display>(
        &self,
        due: Due,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (word, fits) = match self.value {
            DeValue::String(text) => (Cow::Borrowed(text.as_ref()), due != Due::Number),
            DeValue::Integer(_) => (self.word()?, due != Due::Text),
            DeValue::Boolean(value) if due != Due::Number => (value.to_string().into(), false),
            DeValue::Float(value) if due != Due::Number => (value.as_str().into(), false),
            _ => return self.wrong(&format!("{} is due", due.words())),
        };
        match parse(&word) {
            Ok(value) if fits => Some(value),
            Ok(_) => {
                let example = match (due, word.parse::<i64>()) {
                    (Due::Number, Ok(number)) => format!(": {} = {number}", self.name()),
                    _ => String::new(),
                };
                self.wrong(&format!("{} is due{example}", due.words()))
            }
            Err(error) => {
                self.complain_for_sure(error.to_string());
                None
            }
        }
    }

    /// The key without its tables.
    fn name(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or_default()
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong("true or false is due"),
        }
    }

    /// The values of an array, or the one value that stands in its place.
    pub(super) fn list(self) -> Vec<Self> {
        match self.value {
            DeValue::Array(array) => array
                .iter()
                .map(|value| Self {
                    document: self.document,
                    key: self.key.clone(),
                    at: value.span(),
                    value: value.get_ref(),
                })
                .collect(),
            _ => vec![self],
        }
    }

    /// The same, with `why` for a list that has none.
    pub(super) fn some(self, why: &str) -> Vec<Self> {
        if matches!(self.value, DeValue::Array(array) if array.is_empty()) {
            self.complain(why);
        }
        self.list()
    }

    pub(super) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    pub(super) fn table(self) -> Option<Table<'d>> {
        match self.value {
            DeValue::Table(table) => Some(Table {
                document: self.document,
                path: self.key,
                at: self.at.start,
                table,
                asked: Vec::new(),
            }),
            _ => self.wrong("a table is due"),
        }
    }

    /// The tables of an array of tables (`[[routes]]`).
    pub(super) fn tables(self) -> Vec<Table<'d>> {
        if !matches!(self.value, DeValue::Array(_)) {
            let wanted = format!("an array of tables ([[{}]]) is due", self.key);
            return self.wrong(&wanted).unwrap_or_default();
        }
        self.list().into_iter().filter_map(Self::table).collect()
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, read: impl Fn(Table<'_>)) -> Vec<String> {
        let document = Document::new("a.toml", text);
        let parsed = DeTable::parse(text).unwrap();
        read(Table::root(&document, parsed.get_ref()));
        let problems = document.into_problems();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_mistake_has_its_place_and_a_suggestion() {
        let told = problems("a = 1\n[web]\n  adress = \"x\"\n  zzz = 1\n", |mut root| {
            let word = root.take("a").unwrap();
            assert_eq!(word.word().as_deref(), Some("1"));
            assert_eq!(word.boolean(), None);
            let mut web = root.table("web").unwrap();
            assert!(web.take("address").is_none());
            web.finish(|_| None);
            root.finish(|_| None);
        });
        assert_eq!(
            told,
            [
                "a.toml:1:5: a: this is a whole number; true or false is due",
                "a.toml:3:3: web.adress: unknown key; did you mean `address`?",
                "a.toml:4:3: web.zzz: unknown key; known here: address",
            ]
        );
    }

    #[test]
    fn columns_are_characters_and_odd_names_are_quoted() {
        let told = problems("\"é.é\" = { x = true }", |root| {
            for (_, value) in root.entries() {
                let mut table = value.table().unwrap();
                assert_eq!(table.take("x").unwrap().word(), None);
            }
        });
        assert_eq!(
            told,
            ["a.toml:1:15: \"é.é\".x: this is true or false; a string or a whole number is due"]
        );
    }
}
