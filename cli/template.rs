//! `--format`: a table, JSON, or a Go template, as docker takes it.

use std::sync::Arc;

use anyhow::Context;
use gotmpl::{MissingKey, Template, TemplateError, Value as Data};
use serde_json::{Map, Value};

use crate::{table, terminal};

/// How something is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// Columns of one's own.
    TableOf(String),
    /// One JSON object per line.
    Json,
    /// A Go template for each.
    Text(String),
}

/// Reads a format for clap.
pub(crate) fn format(text: &str) -> Result<Format, String> {
    // As docker does, which people write in single quotes.
    let unescape = |text: &str| text.replace("\\t", "\t").replace("\\n", "\n");
    let format = match text.trim() {
        "" | "table" => Format::Table,
        "json" => Format::Json,
        text => match text.strip_prefix("table") {
            Some(columns) if columns.starts_with([' ', '\t', '\\']) => Format::TableOf(unescape(columns.trim())),
            _ => Format::Text(unescape(text)),
        },
    };
    match &format {
        Format::TableOf(template) | Format::Text(template) => compile(template).map(drop).map_err(|e| e.to_string())?,
        Format::Table | Format::Json => {}
    }
    Ok(format)
}

/// A column: its heading, and the member of an object that stands in it.
pub(crate) type Column = (&'static str, &'static str);

/// Prints a list of objects. The columns are those of the table, and name the headings of further members.
pub(crate) fn print_list(
    format: Option<&Format>,
    columns: &[Column],
    further: &[Column],
    rows: &[Map<String, Value>],
) -> anyhow::Result<()> {
    match format.unwrap_or(&Format::Table) {
        Format::Table => {
            let cell = |row: &Map<String, Value>, member: &str| row.get(member).map(plain).unwrap_or_default();
            let rows: Vec<Vec<String>> =
                rows.iter().map(|row| columns.iter().map(|(_, member)| cell(row, member)).collect()).collect();
            let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
            terminal::print_line(&table::render(&headings, &rows))?;
        }
        Format::Json => {
            for row in rows {
                terminal::print_json(&serde_json::to_string(row)?)?;
            }
        }
        Format::Text(template) => {
            let template = compile(template)?;
            for row in rows {
                terminal::print_line(&execute(&template, row)?)?;
            }
        }
        Format::TableOf(text) => {
            let template = compile(text)?;
            let mut names: Map<String, Value> = Map::new();
            for (heading, member) in columns.iter().chain(further) {
                names.insert((*member).to_owned(), (*heading).into());
            }
            for row in rows {
                for name in row.keys() {
                    names.entry(name.clone()).or_insert_with(|| name.to_uppercase().into());
                }
            }
            let split = |line: String| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
            let headings = split(execute(&template, &names)?);
            let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
            let rows = rows.iter().map(|row| execute(&template, row).map(split)).collect::<Result<Vec<_>, _>>()?;
            terminal::print_line(&table::render(&headings, &rows))?;
        }
    }
    Ok(())
}

/// Runs a template on one value.
pub(crate) fn render(template: &str, value: &Value) -> anyhow::Result<String> {
    Ok(compile(template)?.execute_to_string(&data(value))?)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn compile(text: &str) -> anyhow::Result<Template> {
    // A method with an argument is the one thing that the template engine does not know.
    let text = text.replace(".Label \"", "call .Label \"");
    let one = |name: &'static str, change: fn(&str) -> String| {
        move |arguments: &[Data]| match arguments {
            [Data::String(text)] => Ok(Data::String(change(text).into())),
            _ => Err(TemplateError::Exec(format!("{name} takes one text"))),
        }
    };
    let template = Template::new("format")
        .missing_key(MissingKey::Error)
        .func("json", |arguments| match arguments {
            [value] => Ok(Data::String(json(value).to_string().into())),
            _ => Err(TemplateError::Exec("json takes one value".into())),
        })
        .func("join", |arguments| match arguments {
            [Data::List(items), Data::String(separator)] => {
                let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
                Ok(Data::String(texts.join(separator).into()))
            }
            [Data::Nil, Data::String(_)] => Ok(Data::String("".into())),
            _ => Err(TemplateError::Exec("join takes a list and a text".into())),
        })
        .func("split", |arguments| match arguments {
            [Data::String(text), Data::String(separator)] => {
                Ok(Data::List(text.split(&**separator).map(|part| Data::String(part.into())).collect()))
            }
            _ => Err(TemplateError::Exec("split takes two texts".into())),
        })
        .func("truncate", |arguments| match arguments {
            [Data::String(text), Data::Int(most)] => {
                let most = usize::try_from(*most).unwrap_or_default();
                Ok(Data::String(text.chars().take(most).collect::<String>().into()))
            }
            _ => Err(TemplateError::Exec("truncate takes a text and a number".into())),
        })
        .func("lower", one("lower", str::to_lowercase))
        .func("upper", one("upper", str::to_uppercase))
        .func(
            "title",
            one("title", |text| {
                let mut chars = text.chars();
                chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
            }),
        );
    template.parse(&text).context("template parsing error")
}

fn execute(template: &Template, row: &Map<String, Value>) -> anyhow::Result<String> {
    let mut data: std::collections::BTreeMap<Arc<str>, Data> =
        row.iter().map(|(name, value)| (name.as_str().into(), self::data(value))).collect();
    // Docker's method `.Label "name"`, on the text of all labels.
    if let Some(Value::String(labels)) = row.get("Labels") {
        let labels = labels.clone();
        let find = move |arguments: &[Data]| {
            let name = arguments.first().and_then(Data::as_str).unwrap_or_default();
            let mut pairs = labels.split(',').filter_map(|label| label.split_once('='));
            let value = pairs.find(|(other, _)| *other == name).map_or("", |(_, value)| value);
            Ok(Data::String(value.into()))
        };
        data.insert("Label".into(), Data::Function(Arc::new(find)));
    }
    Ok(template.execute_to_string(&Data::Map(Arc::new(data)))?)
}

fn data(value: &Value) -> Data {
    match value {
        Value::Null => Data::Nil,
        Value::Bool(value) => Data::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Data::Int(number),
            None => Data::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Data::String(text.as_str().into()),
        Value::Array(items) => Data::List(items.iter().map(data).collect()),
        Value::Object(members) => {
            Data::Map(Arc::new(members.iter().map(|(name, value)| (name.as_str().into(), data(value))).collect()))
        }
    }
}

fn json(value: &Data) -> Value {
    match value {
        Data::Bool(value) => (*value).into(),
        Data::Int(number) => (*number).into(),
        Data::Float(number) => (*number).into(),
        Data::String(text) => (&**text).into(),
        Data::List(items) => items.iter().map(json).collect(),
        Data::Map(members) => members.iter().map(|(name, value)| (name.to_string(), json(value))).collect(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn templates_that_scripts_use_work() {
        let container = json!({
            "Id": "abc", "Name": "/web", "State": { "Running": true, "ExitCode": 3, "Health": null },
            "Config": { "Env": ["A=1", "B=2"], "Labels": { "com.example.x": "y" }, "Cmd": null },
            "NetworkSettings": { "Networks": { "bridge": { "IPAddress": "10.0.0.2" } },
                "Ports": { "80/tcp": [ { "HostIp": "0.0.0.0", "HostPort": "8080" } ] } },
            "Mounts": [ { "Source": "/a", "Destination": "/b" } ],
        });
        for (template, expected) in [
            ("{{.State.Running}} {{.State.ExitCode}}", "true 3"),
            ("{{json .Config.Env}}", "[\"A=1\",\"B=2\"]"),
            ("{{join .Config.Env \",\"}}", "A=1,B=2"),
            ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
            ("{{index .Config.Labels \"com.example.x\"}}", "y"),
            ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.0.0.2"),
            ("{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{range $p, $c := .NetworkSettings.Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}", "80/tcp -> 8080"),
            ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
            ("{{len .Mounts}} {{with index .Mounts 0}}{{.Destination}}{{end}}", "1 /b"),
            ("{{.Name | upper}} {{slice .Id 0 2}} {{printf \"%-5s|\" .Id}}", "/WEB ab abc  |"),
            ("{{eq .State.ExitCode 3}} {{and .State.Running (not .State.Health)}}", "true true"),
        ] {
            assert_eq!(render(template, &container).expect(template), expected, "{template}");
        }
        assert!(render("{{.Nope}}", &container).is_err());
        assert!(format("{{.Name").is_err());
        assert_eq!(format("table {{.A}}\\t{{.B}}"), Ok(Format::TableOf("{{.A}}\t{{.B}}".into())));
        assert_eq!(format("json"), Ok(Format::Json));
    }

    #[test]
    fn labels_are_found_by_name() {
        let row = json!({ "Labels": "a=1,b=2" });
        let row = row.as_object().expect("an object");
        assert_eq!(execute(&compile("{{.Label \"b\"}}").expect("parses"), row).expect("runs"), "2");
        assert_eq!(execute(&compile("{{if .Label \"c\"}}x{{end}}").expect("parses"), row).expect("runs"), "");
    }
}
