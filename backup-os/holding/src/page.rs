//! The page over HTTP/1.0 (RFC 1945, RFC 9110): one request a connection, to read and nothing else.

use crate::state::State;
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of a request with its head: more is refused.
pub const REQUEST: usize = 1024;
/// Bytes of an answer with its head.
pub const ANSWER: usize = 4096;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// The answer to what has come so far, if it is enough. `over`: nothing more comes.
pub fn answer(request: &[u8], over: bool, state: &State) -> Option<Vec<u8>> {
    let Some(head) = head(request) else {
        return if request.len() >= REQUEST {
            Some(refusal("431 Request Header Fields Too Large", ""))
        } else {
            over.then(|| refusal("400 Bad Request", ""))
        };
    };
    Some(match Request::parse(head) {
        Ok(request) => request.answer(state),
        Err(refusal) => refusal,
    })
}

/// The head of a request, without the empty line at its end.
fn head(request: &[u8]) -> Option<&[u8]> {
    let end = |mark: &[u8]| request.windows(mark.len()).position(|bytes| bytes == mark);
    let end = [end(b"\r\n\r\n"), end(b"\n\n")].into_iter().flatten().min()?;
    request.get(..end)
}

/// What is asked for.
struct Request<'a> {
    /// Only its head.
    only_head: bool,
    path: &'a str,
    /// In this form if both are there.
    json: bool,
}

impl<'a> Request<'a> {
    /// # Errors
    /// The answer to one that is none.
    fn parse(head: &'a [u8]) -> Result<Self, Vec<u8>> {
        let bad = || refusal("400 Bad Request", "");
        let head = core::str::from_utf8(head).map_err(|_| bad())?;
        let mut lines = head.split('\n').map(|line| line.trim_end_matches('\r'));
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(bad());
        };
        if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
            return Err(bad());
        }
        let only_head = match method {
            "GET" => false,
            "HEAD" => true,
            _ => return Err(refusal("405 Method Not Allowed", "Allow: GET, HEAD\r\n")),
        };
        let json = lines.any(|line| {
            let field = line.split_once(':');
            field.is_some_and(|(name, value)| name.eq_ignore_ascii_case("accept") && value.contains(JSON))
        });
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        Ok(Self { only_head, path, json })
    }

    fn answer(&self, state: &State) -> Vec<u8> {
        let (kind, body) = match (self.path, self.json) {
            ("/", false) => (TEXT, state.text()),
            ("/", true) | ("/status.json", _) => (JSON, state.json()),
            _ => return refusal("404 Not Found", ""),
        };
        let mut answer = reply("200 OK", "", kind, &body);
        if self.only_head {
            let head = answer.len().saturating_sub(body.len());
            answer.truncate(head);
        }
        answer
    }
}

fn refusal(status: &str, field: &str) -> Vec<u8> {
    reply(status, field, TEXT, &alloc::format!("{status}\n"))
}

fn reply(status: &str, field: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let head: String = alloc::format!(
        "HTTP/1.0 {status}\r\n{field}Content-Type: {kind}\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n{body}"
    );
    head.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Attempt, Messages, Word};
    use shared_region::attempts::{End, MAX};
    use shared_region::context::Summary;
    use shared_region::control::{Cause, SuccessorPhase};

    fn ask(request: &str) -> String {
        let answer = answer(request.as_bytes(), false, &State::default()).expect("an answer");
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn the_page_is_text_or_json() {
        for request in ["GET / HTTP/1.0\r\n\r\n", "GET /?x HTTP/1.1\nHost: a\n\n"] {
            let answer = ask(request);
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(
                head.starts_with("HTTP/1.0 200 OK\r\nContent-Type: text/plain"),
                "{head}"
            );
            assert!(
                head.contains(&alloc::format!("Content-Length: {}\r\n", body.len())),
                "{head}"
            );
            assert_eq!(body, State::default().text());
        }
        for request in [
            "GET /status.json HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\r\naCCEPT: text/html, application/json;q=0.9\r\n\r\n",
        ] {
            let answer = ask(request);
            assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
            assert!(answer.ends_with(&State::default().json()));
        }
    }

    #[test]
    fn head_is_the_same_without_the_body() {
        let whole = ask("GET /status.json HTTP/1.0\r\n\r\n");
        let head = ask("HEAD /status.json HTTP/1.0\r\n\r\n");
        assert!(head.ends_with("\r\n\r\n"));
        assert_eq!(whole.strip_prefix(&head), Some(&*State::default().json()));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (request, status) in [
            (
                "POST / HTTP/1.0\r\n\r\n",
                "405 Method Not Allowed\r\nAllow: GET, HEAD\r\n",
            ),
            ("get / HTTP/1.0\r\n\r\n", "405 "),
            ("GET /../etc/passwd HTTP/1.0\r\n\r\n", "404 "),
            ("GET http://a/ HTTP/1.0\r\n\r\n", "400 "),
            ("GET /\r\n\r\n", "400 "),
            ("GET / HTTP/2.0\r\n\r\n", "400 "),
            ("GET  / HTTP/1.0\r\n\r\n", "400 "),
            ("\r\n\r\n", "400 "),
        ] {
            let answer = ask(request);
            assert!(
                answer.starts_with(&alloc::format!("HTTP/1.0 {status}")),
                "{request}: {answer}"
            );
        }
        let state = State::default();
        assert_eq!(
            answer(b"GET / HTTP/1.0\r\nHost: a\r\n", false, &state),
            None,
            "more may come"
        );
        assert!(answer(b"GET / HTTP/1.0\r\n", true, &state)
            .unwrap()
            .starts_with(b"HTTP/1.0 400"));
        assert!(answer(&[b'a'; REQUEST], false, &state)
            .unwrap()
            .starts_with(b"HTTP/1.0 431"));
        assert!(answer(b"GET /\xFF HTTP/1.0\r\n\r\n", false, &state)
            .unwrap()
            .starts_with(b"HTTP/1.0 400"));
    }

    #[test]
    fn the_longest_answer_has_room() {
        let longest = &"m".repeat(200);
        let (end, _) = End::ALL.into_iter().max_by_key(|(_, text)| text.len()).unwrap();
        let attempt = Attempt {
            slot: 1,
            woken: false,
            end,
        };
        let state = State {
            failover: u64::MAX,
            cause: Cause::AllCpusHung,
            cpu: Some(u64::MAX),
            place: Word::new(longest),
            failed: Word::new(longest),
            kernels: [Word::new(longest), Word::new(longest)],
            attempts: alloc::vec![attempt; MAX],
            phase: Some(SuccessorPhase::Complete),
            steps: [Some(i64::MIN); _],
            now: u64::MAX,
            summary: Some(Summary {
                processes: u32::MAX,
                refused: u32::MAX,
                ..Summary::default()
            }),
            stopped_at: Some(i64::MAX),
            messages: Some(Messages {
                sent: u64::MAX,
                dropped: u64::MAX,
            }),
        };
        for path in ["/", "/status.json"] {
            let request = alloc::format!("GET {path} HTTP/1.0\r\n\r\n");
            let answer = answer(request.as_bytes(), false, &state).unwrap();
            assert!(answer.len() <= ANSWER, "{path}: {}", answer.len());
        }
    }
}
