//! BTF of a kernel, and of a module on top of it.

use btf::{Btf, TypeId};

/// Asks for everything a blob can be asked for.
fn ask(btf: &Btf<'_>) {
    for (id, kind) in btf.own_types().take(4096) {
        let _ = (
            btf.name(id),
            btf.resolve(id),
            btf.size_of(id),
            btf.array(id),
            btf.pointee(id),
        );
        for member in kind.members().take(64) {
            let Ok(name) = btf.string(member.name) else { continue };
            let _ = btf.member(id, name);
            let _ = btf.member(id, &format!("{name}.{name}"));
        }
        let _ = kind.enumerators().take(64).count() + kind.parameters().take(64).count();
    }
    let _ = btf.find_struct("task_struct");
    let _ = btf.get(TypeId(u32::MAX));
}

/// The first two bytes say where the module's blob begins, 0 for none.
pub fn btf(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<2>() else {
        return;
    };
    let (kernel, module) = match usize::from(u16::from_le_bytes(*head)) {
        0 => (rest, None),
        at => {
            let (kernel, module) = rest.split_at(at.min(rest.len()));
            (kernel, Some(module))
        }
    };
    let Ok(base) = Btf::parse(kernel) else { return };
    ask(&base);
    if let Some(Ok(split)) = module.map(|module| Btf::parse_split(module, &base)) {
        ask(&split);
    }
}
