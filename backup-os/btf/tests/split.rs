//! Reads the BTF of real modules over that of their kernel.
//!
//! Ignored unless asked for: `ORTHROS_BTF` is the kernel's raw BTF, `ORTHROS_BTF_MODULES` a folder of modules' (`*.btf`,
//! the contents of their `.BTF` sections).

use btf::{Btf, Kind};

#[test]
#[ignore = "needs BTF files"]
fn modules_continue_their_kernel() {
    let base =
        std::fs::read(std::env::var_os("ORTHROS_BTF").expect("ORTHROS_BTF names a file")).expect("it can be read");
    let base = Btf::parse(&base).expect("the kernel's BTF is sound");
    let dir = std::env::var_os("ORTHROS_BTF_MODULES").expect("ORTHROS_BTF_MODULES names a folder");
    let mut structures = 0;
    for entry in std::fs::read_dir(dir).expect("folder can be read") {
        let path = entry.expect("folder entry can be read").path();
        if path.extension().is_none_or(|extension| extension != "btf") {
            continue;
        }
        let blob = std::fs::read(&path).expect("file can be read");
        let module = Btf::parse_split(&blob, &base).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(module.end() > base.end(), "{}", path.display());
        for (id, ty) in module.own_types() {
            let name = module.name(id).expect("a name");
            if ty.kind != Kind::Struct || name.is_empty() {
                continue;
            }
            assert_eq!(
                module.name(module.find(Kind::Struct, name).expect("found by name")),
                Ok(name)
            );
            let size = module.size_of(id).expect("a size");
            for member in ty.members().filter(|member| member.name != 0) {
                let name = module.string(member.name).expect("a name");
                let found = module.member(id, name).expect("found by name");
                let end = found.offset() + module.size_of(found.id).unwrap_or(0);
                assert!(
                    end <= size.max(found.offset()) || found.bit_size != 0,
                    "{}: {name}",
                    path.display()
                );
            }
            structures += 1;
        }
    }
    println!("{structures} structures");
    assert!(structures > 0);
}
