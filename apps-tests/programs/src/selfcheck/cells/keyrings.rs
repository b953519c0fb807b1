//! Session keyrings, as a service manager gives them to services.

use crate::cell::{same, Cell, Context};
use crate::sys::keyring::{self, SESSION};
use crate::sys::process::{self, fork};
use anyhow::Result;

pub const CELLS: &[Cell] = &[
    Cell {
        name: "keyrings/service",
        what: "a session keyring with the id of a service's run, shared with a child; what one adds the other finds",
        covers: &[
            "Process.session_keyring",
            "Keyring.description",
            "Keyring.uid",
            "Keyring.gid",
            "Keyring.perm",
            "Keyring.keys",
            "LinkedKey.User",
        ],
        caught: None,
        run: service,
    },
    Cell {
        name: "keyrings/user-link",
        what: "a session keyring of another user with that user's keyring in it",
        covers: &["Keyring.uid", "Keyring.keys", "LinkedKey.UserKeyring"],
        caught: None,
        run: user_link,
    },
    Cell {
        name: "keyrings/none",
        what: "a process without a session keyring beside those that have one",
        covers: &["Process.session_keyring"],
        caught: None,
        run: none,
    },
];

/// `KEY_POS_VIEW`, `READ`, `SEARCH` and the same for the owner: what systemd leaves of a key.
const SYSTEMD: i64 = 0x0B0B_0000;

/// Leaves the cell out where keys cannot be used at all.
fn new_keyring(context: &Context) -> Result<()> {
    match keyring::join_new() {
        Ok(_) => Ok(()),
        Err(error) => context.skip(format!("no keyrings here: {error:#}")),
    }
}

fn service(context: &mut Context) -> Result<()> {
    new_keyring(context)?;
    let id = *b"0123456789abcdef";
    let key = keyring::add_user("invocation_id", &id)?;
    keyring::set_permissions(key, SYSTEMD)?;
    let mut before = (keyring::describe(SESSION)?, keyring::describe(key)?, id.to_vec());
    let child = fork(|| {
        context.wait()?;
        let key = keyring::search("user", "invocation_id")?;
        same("payload", keyring::read(key)?, b"0123456789abcdef".to_vec())?;
        keyring::add_user("from the child", b"x").map(drop)
    })?;
    context.failover(|| {
        before.2[0] = b'!';
        Ok(())
    })?;
    let key = keyring::search("user", "invocation_id")?;
    same("keyring", keyring::describe(SESSION)?, before.0)?;
    same("key", keyring::describe(key)?, before.1)?;
    same("payload", keyring::read(key)?, before.2)?;
    child.join("child with the same keyring")?;
    keyring::search("user", "from the child").map(drop)
}

fn user_link(context: &mut Context) -> Result<()> {
    context.need_root()?;
    process::setresgid(1234, -1, -1)?;
    process::setresuid(1235, -1, -1)?;
    new_keyring(context)?;
    keyring::link_user()?;
    process::setresuid(0, -1, -1)?;
    process::setresgid(0, -1, -1)?;
    let mut before = keyring::describe(SESSION)?;
    context.failover(|| {
        before.push('!');
        Ok(())
    })?;
    same("keyring", keyring::describe(SESSION)?, before)?;
    same("bytes in it", keyring::read(SESSION)?.len(), 4)?;
    let linked = keyring::search("keyring", "_uid.1235")?;
    same(
        "linked keyring",
        keyring::describe(linked)?,
        "keyring;1235;65534;1f3f0000;_uid.1235".into(),
    )
}

fn none(context: &mut Context) -> Result<()> {
    let before = if context.mutate() { "" } else { "_uid_ses." };
    let found = || -> Result<String> {
        let description = keyring::describe(SESSION)?;
        Ok(description.rsplit(';').next().unwrap_or_default().to_owned())
    };
    // Asking for a session keyring gives the user's one to a process that has none, so another process asks.
    let asks = |wait: bool| {
        fork(|| {
            if wait {
                context.wait()?;
            }
            let name = found()?;
            anyhow::ensure!(name.starts_with(before) != context.mutate(), "session keyring {name}");
            Ok(())
        })
    };
    if !context.mutate() && asks(false)?.status()? != 0 {
        return context.skip("the session keyring of this machine is not the user's");
    }
    let child = asks(true)?;
    context.failover(|| Ok(()))?;
    child.join("child without a keyring")
}
