//! Conversations have the ids that the published format has with SentencePiece's own library; `chats.py` describes
//! and makes `chats.txt`.

use crate::byte_level::unescaped;
use crate::{LLAMA, ids};
use llama_core::{Chat, Prompt};

#[test]
fn ten_conversations_have_the_ids_of_the_published_format() {
    let Some(llama) = &*LLAMA else { return };
    let new = || Chat::new(llama.bos().unwrap(), llama.eos().unwrap());
    let (mut chat, mut checked) = (new(), 0);
    for line in include_str!("chats.txt").lines() {
        let (what, text) = line.split_once(' ').unwrap_or((line, ""));
        chat = match what {
            "system" => chat.system(unescaped(text)),
            "user" => chat.user(unescaped(text)),
            "answer" => chat.assistant(unescaped(text)),
            _ => {
                let expected: Vec<u32> = text.split(' ').map(|id| id.parse().unwrap()).collect();
                assert_eq!(ids(&llama.encode(&Prompt::from(&chat))), expected, "{chat:?}");
                checked += 1;
                new()
            }
        };
    }
    assert_eq!(checked, 10);
}
