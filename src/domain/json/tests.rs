use proptest::prelude::*;

use super::*;

fn document(text: &str) -> std::result::Result<Value<'_>, String> {
    read(text, 5, |_, _| {}).map_err(|error| error.message("body"))
}

#[test]
fn values_are_handed_out_as_they_were_written() {
    let rows = [
        ("null", Value::Null),
        (" true\n", Value::Bool(true)),
        ("false", Value::Bool(false)),
        ("-0", Value::Number("-0")),
        ("1.50e+3", Value::Number("1.50e+3")),
        (r#""a""#, Value::String("a".into())),
        (
            r#""\"\\\/\b\f\n\r\t""#,
            Value::String("\"\\/\u{8}\u{c}\n\r\t".into()),
        ),
        (r#""é\u00e9\ud83d\ude00x""#, Value::String("éé😀x".into())),
        ("[ 1 , [] ]", Value::Array("[ 1 , [] ]")),
        (r#"{ "a" : {} }"#, Value::Object(r#"{ "a" : {} }"#)),
        (
            r#"{"a":{"x":1},"b":{"x":1}}"#,
            Value::Object(r#"{"a":{"x":1},"b":{"x":1}}"#),
        ),
        ("[[[[[]]]]]", Value::Array("[[[[[]]]]]")),
        ("1e400", Value::Number("1e400")),
        ("1e-400", Value::Number("1e-400")),
    ];
    for (text, value) in rows {
        assert_eq!(document(text), Ok(value), "{text}");
    }
}

const SYNTAX_ERRORS: &[(&str, &str)] = &[
    ("", "line 1, column 1: expected a value, got the end"),
    ("nul", "line 1, column 1: expected a value, got \"n\""),
    ("NaN", "line 1, column 1: expected a value, got \"N\""),
    ("+1", "line 1, column 1: expected a value, got \"+\""),
    ("-", "line 1, column 1: invalid number"),
    (".5", "line 1, column 1: expected a value, got \".\""),
    ("1.", "line 1, column 2: invalid number"),
    ("1e+", "line 1, column 3: invalid number"),
    ("01", "line 1, column 2: invalid number"),
    (
        "{} {}",
        "line 1, column 4: expected nothing more, got \"{\"",
    ),
    (
        "{\n \"é\" 1}",
        "line 2, column 6: expected a colon after the key, got \"1\"",
    ),
    (
        "{,}",
        "line 1, column 2: expected a key in double quotes, got \",\"",
    ),
    (
        "{'a':1}",
        "line 1, column 2: expected a key in double quotes, got \"'\"",
    ),
    (
        "{\"a\":1,}",
        "line 1, column 8: expected a key in double quotes, got \"}\"",
    ),
    (
        "{\"a\":1 \"b\"",
        "line 1, column 8: expected a comma or the end of the object, got \"\\\"\"",
    ),
    ("[1,]", "line 1, column 4: expected a value, got \"]\""),
    (
        "[1 2]",
        "line 1, column 4: expected a comma or the end of the array, got \"2\"",
    ),
    (
        "[1",
        "line 1, column 3: expected a comma or the end of the array, got the end",
    ),
    ("\"a", "line 1, column 3: EOF while parsing a string"),
    (
        "\"\t\"",
        "line 1, column 1: control character (\\u0000-\\u001F) found while parsing a string",
    ),
    ("\"\\x\"", "line 1, column 3: invalid escape"),
    ("\"\\u+123\"", "line 1, column 7: invalid escape"),
    ("\"\\u12é\"", "line 1, column 6: invalid escape"),
    (
        "\u{202e}",
        "line 1, column 1: expected a value, got \"\\u{202e}\"",
    ),
];

#[test]
fn syntax_errors_have_a_line_and_a_column() {
    for (text, problem) in SYNTAX_ERRORS {
        assert_eq!(document(text), Err(format!("body: {problem}")), "{text}");
    }
}

#[test]
fn values_that_cannot_be_stored_are_refused_by_path() {
    let wide = format!("[0.{}]", "1".repeat(16_384));
    let long = format!("[{}]", "1".repeat(131_073));
    let rows = [
        (r#"{"a":1,"b":2,"a":3}"#, "a: the key appears twice"),
        (r#"{"a":1,"\u0061":3}"#, "a: the key appears twice"),
        (
            r#"{"a":{"b":[{},{"c":1,"c":2}]}}"#,
            "a.b[1].c: the key appears twice",
        ),
        (
            r#"[[{"x y":1,"x y":2}]]"#,
            "[0][0].\"x y\": the key appears twice",
        ),
        (r#"{"":1,"":2}"#, "\"\": the key appears twice"),
        (
            r#"{"a":["\u0000"]}"#,
            "a[0]: a string holds U+0000, which can't be stored",
        ),
        (
            r#"{"a":{"\u0000":1}}"#,
            "a: a string holds U+0000, which can't be stored",
        ),
        (
            r#""\u0000""#,
            "body: a string holds U+0000, which can't be stored",
        ),
        (
            r#"["\ud83d"]"#,
            "[0]: a string holds half of a surrogate pair",
        ),
        (
            r#"["\ude00"]"#,
            "[0]: a string holds half of a surrogate pair",
        ),
        (
            r#"["\ud83d\u0041"]"#,
            "[0]: a string holds half of a surrogate pair",
        ),
        (r#"{"n":1e401}"#, "n: the number 1e401 is out of range"),
        (r#"{"n":-1e-401}"#, "n: the number -1e-401 is out of range"),
        (
            r#"{"n":0e99999999999}"#,
            "n: the number 0e99999999999 is out of range",
        ),
        ("[[[[[[]]]]]]", "body: nesting deeper than 5"),
        (r#"{"a":[{"a":[{"a":{}}]}]}"#, "body: nesting deeper than 5"),
    ];
    for (text, problem) in rows {
        assert_eq!(document(text), Err(problem.to_owned()), "{text}");
    }
    for text in [wide, long] {
        let error = document(&text).unwrap_err();
        assert!(
            error.ends_with("… is out of range") && error.len() < 110,
            "{error}"
        );
    }
}

#[test]
fn many_keys_do_not_cost_the_square_of_their_number() {
    let members: Vec<String> = (0..100_000).map(|key| format!("\"{key}\":0")).collect();
    let text = format!("{{{}}}", members.join(","));
    assert!(document(&text).is_ok());
    let text = format!("{{{},\"77\":1}}", members.join(","));
    assert_eq!(document(&text), Err("77: the key appears twice".to_owned()));
}

#[test]
fn a_long_path_is_cut() {
    let key = "k".repeat(200);
    let text = format!(r#"{{"{key}":{{"{key}":{{"{key}":1e999}}}}}}"#);
    let error = document(&text).unwrap_err();
    assert!(
        error.ends_with("…: the number 1e999 is out of range"),
        "{error}"
    );
    assert!(error.len() <= 256 + 40);
}

/// Text that is often nearly JSON.
fn nearly_json() -> impl Strategy<Value = String> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\"a\"",
        "\"b\":",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\n",
        "0",
        "1",
        "-",
        ".",
        "e",
        "E+",
        "true",
        "false",
        "null",
        " ",
        "\n",
        "é",
        "[1,2]",
        "{\"c\":3}",
    ];
    let soup = prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..12)
        .prop_map(|pieces| pieces.concat());
    prop_oneof![soup, nested().prop_map(|value| value.to_string())]
}

fn nested() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[^\u{0}]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::hash_map("[^\u{0}]{0,4}", inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The extra rules take nothing away from what is read, and the grammar is nobody's own.
    #[test]
    fn the_grammar_is_that_of_serde_json(text in nearly_json()) {
        let other = serde_json::from_str::<&RawValue>(&text);
        match document(&text) {
            Ok(Value::String(string)) => {
                prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), string);
            }
            Ok(Value::Array(raw) | Value::Object(raw) | Value::Number(raw)) => {
                prop_assert_eq!(other.unwrap().get(), raw);
            }
            Ok(_) => prop_assert!(other.is_ok()),
            Err(error) if error.contains(": expected ") => prop_assert!(other.is_err(), "{}", error),
            Err(_) => {}
        }
    }
}
