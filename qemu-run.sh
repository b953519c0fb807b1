#!/bin/bash
# Builds Orthros and runs it in QEMU on stock Debian kernels.
# Installs what a Debian 12 lacks for that; everything else is the harness' work.
set -euo pipefail

usage() {
	cat <<'TEXT'
usage: ./qemu-run.sh                    demonstration: a program with 1 GB lives through a kernel panic
       ./qemu-run.sh test [--all] [--shard I/N] [--only TEXT] [--seed N]
       ./qemu-run.sh scenario DIR [--active 6.1|6.12] [--successor 6.1|6.12]
                                  [--event panic|none] [--json FILE]
       ./qemu-run.sh shell              commands typed here run in a guest
       ./qemu-run.sh bench [gaps|cost]  figures of speed
       ./qemu-run.sh boot ...           one guest step by step, all logs kept
       ./qemu-run.sh COMMAND --help     all options of a command

Runs on Debian 12 as root or with sudo. Results and caches are below target/.
TEXT
}

case ${1-} in -h | --help | help)
	usage
	exit 0
	;;
esac

cd "$(dirname "$(readlink -f "$0")")"

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || {
		echo "error: neither root nor sudo: the guest's file system must be made by root" >&2
		exit 2
	}
	exec sudo --preserve-env=PATH,HOME,CARGO_TARGET_DIR,ORTHROS_ACCEL "./qemu-run.sh" "$@"
fi

# Package and a file of it: looking for files is quicker than asking dpkg.
need=(
	build-essential:/usr/bin/make git:/usr/bin/git
	qemu-system-x86:/usr/bin/qemu-system-x86_64 qemu-utils:/usr/bin/qemu-img
	seabios:/usr/share/seabios/bios-256k.bin
	grub-common:/usr/bin/grub-mkrescue grub-pc-bin:/usr/lib/grub/i386-pc/multiboot2.mod
	xorriso:/usr/bin/xorriso mtools:/usr/bin/mformat busybox-static:/bin/busybox
	cpio:/usr/bin/cpio zstd:/usr/bin/zstd xz-utils:/usr/bin/xz kmod:/sbin/depmod
	mmdebstrap:/usr/bin/mmdebstrap e2fsprogs:/sbin/mke2fs dosfstools:/sbin/mkfs.vfat dwarves:/usr/bin/pahole
	openssh-client:/usr/bin/ssh
)

# Rust: rustup's toolchain where there is one, else Debian's newer one. Loader and backup
# OS need a library for bare metal: one of rustup's targets, or Debian's source of it.
if command -v rustup >/dev/null; then
	rustup target list --installed 2>/dev/null | grep -qx x86_64-unknown-none ||
		need+=(rustc-web:/usr/bin/rustc rust-web-src:/usr/lib/rustlib/src/rust/library/core/Cargo.toml)
else
	need+=(cargo-web:/usr/bin/cargo rustc-web:/usr/bin/rustc lld-19:/usr/bin/lld-19
		rust-web-src:/usr/lib/rustlib/src/rust/library/core/Cargo.toml)
fi

find_missing() {
	missing=()
	for entry in "${need[@]}"; do
		[ -e "${entry#*:}" ] || missing+=("${entry%%:*}")
	done
}

# Twice, because installing can remove: Debian's QEMU takes away a qemu-utils that came
# from elsewhere, and then that is what is missing.
for attempt in 1 2; do
	find_missing
	[ ${#missing[@]} != 0 ] || break
	echo "installing: ${missing[*]}" >&2
	export DEBIAN_FRONTEND=noninteractive
	[ $attempt != 1 ] || apt-get update -q
	apt-get install -y -q --no-install-recommends "${missing[@]}"
done
find_missing
[ ${#missing[@]} = 0 ] || {
	echo "error: cannot install ${missing[*]}: apt installed them, and their files are not there" >&2
	exit 2
}

target=${CARGO_TARGET_DIR:-$PWD/target}
echo "building the harness" >&2
CARGO_TARGET_DIR=$target cargo build --quiet --release -p apps-tests
exec "$target/release/orthros-harness" "$@"
