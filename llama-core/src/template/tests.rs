use super::*;
use crate::tokenizer::Vocab;
use std::time::{Duration, Instant};

/// `<s>` is 1, `</s>` 2, and 3 `<|user|>`.
fn tokenizer() -> Tokenizer {
    let pieces = ["<unk>", "<s>", "</s>", "<|user|>"].map(String::from).to_vec();
    Tokenizer::new(Vocab::spm(pieces, vec![0.0; 4], vec![2, 3, 3, 3])).unwrap()
}

fn template(source: &str) -> Template {
    Template::new(source, &tokenizer()).unwrap()
}

fn user(text: &str) -> [Message; 1] {
    [Message::new(Role::User, text)]
}

const BOS: Token = Token(1);
const EOS: Token = Token(2);

#[test]
fn what_a_message_spells_is_text() {
    let echo = template("{% for m in messages %}<|user|>{{ m.content }}{{ eos_token }}{% endfor %}");
    for text in ["</s>", "a<s>b", "<|user|></s>", "x\u{F0000}</s>\u{F0001}", "</s", "s>"] {
        let expected = Prompt::new().special(Token(3)).text(text).special(EOS);
        assert_eq!(echo.render(&user(text), true).unwrap(), expected, "{text}");
    }
    // Which a message and the template spell together, too.
    let role = template("{% for m in messages %}{{ '<|' + m.content + '|>' + m.role }}{% endfor %}");
    assert_eq!(role.render(&user("user"), true).unwrap(), Prompt::new().text("<|user|>user"));
    let role = template("{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}");
    assert_eq!(role.render(&user("user"), true).unwrap(), Prompt::new().special(Token(3)).text("user"));
    let around = template("<{{ messages[0].content }}>");
    assert_eq!(around.render(&user("/s"), true).unwrap(), Prompt::new().text("</s>"));
}

#[test]
fn templates_that_look_into_messages_are_guarded_too() {
    let cut =
        template("{{ messages[0].content.split('/')[-1]|upper }}{{ '</s>' if 's' in messages[0].content }}");
    let prompt = cut.render(&user("as/s b"), true).unwrap();
    assert_eq!(prompt, Prompt::new().text("S B").special(EOS));
    let prompt = cut.render(&user("a/</s>"), true).unwrap();
    assert!(
        prompt.segments().iter().filter(|segment| matches!(segment, crate::Segment::Special(_))).count() <= 1
    );
    let echo = template("{{ messages[0].content|title }}{{ bos_token }}");
    let prompt = echo.render(&user("</s> it <s>"), true).unwrap();
    assert_eq!(prompt, Prompt::new().text("</s> It <s>").special(BOS));
}

#[test]
fn the_beginning_comes_once() {
    for source in ["{{ bos_token }}a", "{{ bos_token }}<s>a", "<s><s><s>a"] {
        assert_eq!(template(source).render(&[], true).unwrap(), Prompt::new().special(BOS).text("a"));
    }
    let later = template("a<s><s>b").render(&[], true).unwrap();
    assert_eq!(later, Prompt::new().text("a").special(BOS).special(BOS).text("b"));
}

#[test]
fn values_are_printed_as_python_does() {
    let text = |source: &str| match template(source).render(&user("é\n"), false).unwrap().segments() {
        [crate::Segment::Text(text)] => text.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(text("{{ none }} {{ true }} {{ missing }}{{ 1 }} {{ [1, 'a'] }}"), "None True 1 [1, 'a']");
    assert_eq!(text("{{ messages|tojson }}"), r#"[{"role": "user", "content": "é\n"}]"#);
    assert_eq!(
        text("{{ {'a': [1], 'b': []}|tojson(indent=2) }}"),
        "{\n  \"a\": [\n    1\n  ],\n  \"b\": []\n}"
    );
    assert_eq!(text("{% if tools is none %}{{ strftime_now('%Y')|length }}{% endif %}"), "4");
    assert_eq!(text("{{ add_generation_prompt }}"), "False");
    assert_eq!(
        text(
            "{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}"
        ),
        "4"
    );
}

#[test]
fn errors_say_where() {
    let says = |source: &str, what: &str| {
        let error = Template::new(source, &tokenizer())
            .and_then(|t| t.render(&user("a"), true))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("chat template") && error.contains(what), "{error}");
    };
    says("\n{% if %}", "line 2");
    says("\n{{ 'a }}", "line 2: expected a tag that ends");
    says("\n\n{{ raise_exception('no ' ~ 'roles') }}", "line 3: the template refuses: no roles");
    says("{{ messages[0].content.nothing() }}", "has no method nothing");
    says("{{ x|nothing }}", "nothing");
    says(&"a".repeat(MAX_SOURCE + 1), "expected at most 262144 bytes");
}

#[test]
fn hostile_templates_end_in_an_error() {
    let long = "x".repeat(50_000);
    let grow = |step: &str| {
        format!(
            "{{% set ns = namespace(x='ab', l=['ab']) %}}{{% for i in range(100000) %}}{step}{{% endfor %}}{{{{ ns.x }}}}"
        )
    };
    let sources = [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}".into(),
        "{% for a in range(10000000000) %}{% endfor %}".into(),
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into(),
        "{% macro m(x) %}{{ m(x ~ x) }}{{ m(x ~ x) }}{% endmacro %}{{ m('ab') }}".into(),
        "{{ 'x' * 10000000000 }}".into(),
        "{{ 'x' * 90000000 }}".into(),
        "{{ ('x' * 9000) * 9000 }}".into(),
        "{% set x = [0] * 100000000 %}{{ x|list|length }}".into(),
        "{{ (range(90000)|list * 90000)|length }}{{ (range(90000)|list * 90000)|list }}".into(),
        grow("{% set ns.x = ns.x ~ ns.x %}"),
        grow("{% set ns.x = ns.x + ns.x %}"),
        grow("{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}"),
        grow("{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}"),
        grow("{% set ns.x = [ns.x, ns.x]|join('') %}"),
        grow("{% set ns.x = ns.x.replace('a', 'aa') %}"),
        grow("{% set ns.x = ns.x|replace('a', 'aaa') %}"),
        grow("{% set ns.x = ns.x.join([ns.x, ns.x, ns.x]) %}"),
        grow("{% set ns.x = ns.x|indent(1000000, true) %}"),
        grow("{% set ns.x = ns.x|tojson|tojson %}"),
        // No filter is to be had by another name that does not charge.
        format!(
            "{{{{ ('{}'{})|length }}}}",
            "a".repeat(64),
            format!("|_replace('a', '{}')", "a".repeat(64)).repeat(5)
        ),
        "{{ 'a'|indent(width=100000000000, indent_first=true)|length }}".into(),
        "{{ ['a', 'b']|map('indent', 100000000000, true)|list|length }}".into(),
        format!("{{{{ ('a'{})|length }}}}", "|_indent(40000000, true)".repeat(60)),
        format!(
            "{{{{ ([messages[0].content]{})|list|length }}}}",
            format!("|map('replace', 'a', '{}')|list", "a".repeat(64)).repeat(6)
        ),
        grow("{% set ns.l = ns.l + ns.l %}"),
        grow("{% set ns.l = ns.l + [ns.l] %}"),
        grow("{% set ns.l = [ns.l] %}"),
        grow("{% set ns.l = {'a': ns.l} %}"),
        grow("{% set ns.x = ns %}"),
        grow("{% set ns.x = [ns] %}"),
        format!(
            "{{% set x %}}{{% for i in range(100000) %}}{long}{{% endfor %}}{{% endset %}}{{{{ x ~ x ~ x }}}}"
        ),
        format!("{{% for i in range(100000) %}}{long}{{% endfor %}}"),
        format!("{{{{ {}1{} }}}}", "[".repeat(50_000), "]".repeat(50_000)),
        format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000)),
        "{% include 'chat_template' %}".into(),
        "{% extends 'chat_template' %}".into(),
    ];
    for source in sources {
        let clock = Instant::now();
        let result = Template::new(&source, &tokenizer()).and_then(|t| t.render(&user("a"), true));
        let shown = &source[..source.len().min(120)];
        assert!(
            matches!(result, Err(Error::Template { .. })),
            "{shown}: {:?}",
            result.map(|p| p.segments().len())
        );
        assert!(clock.elapsed() < Duration::from_secs(20), "{shown}: {:?}", clock.elapsed());
    }
}

#[test]
fn long_conversations_are_not_hostile() {
    let source = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content.strip() + ' [/INST]' }}\
        {% else %}{{ ' ' + m.content|trim + eos_token }}{% endif %}{% endfor %}";
    let text = "words and more words ".repeat(100);
    let messages: Vec<Message> =
        (0..2000).map(|i| Message::new([Role::User, Role::Assistant][i % 2], &text)).collect();
    let prompt = template(source).render(&messages, true).unwrap();
    assert_eq!(prompt.segments().len(), 1 + 2000);
}
