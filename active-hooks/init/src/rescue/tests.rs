use super::*;

#[test]
fn a_file_system_is_found_where_it_can_be_written_to() {
    let text = "\
21 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 21 254:16 / /ro ro,relatime - ext4 /dev/vdb rw
31 21 254:16 /part /part rw - ext4 /dev/vdb rw
32 21 254:16 / /data rw,noatime shared:2 - ext4 /dev/vdb rw,discard
33 21 254:32 / /broken rw - ext4 /dev/vdc ro,errors=remount-ro
34 21 254:48 / /with\\040blank rw - ext4 /dev/vdd rw";
    let at = |minor| mounted_at(text, 254, minor);
    assert_eq!(at(1), Some("/".into()));
    assert_eq!(at(16), Some("/data".into()));
    assert_eq!((at(32), at(48), at(64)), (None, None, None));
}

#[test]
fn paths_follow_their_file_system() {
    let root = open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let place = |device, here| System {
        device,
        name: String::new(),
        fstype: b"xfs".to_vec(),
        here,
        room: 0,
    };
    let places = BTreeMap::from([
        (1, place(1, Ok(("/".into(), root.try_clone().unwrap())))),
        (2, place(2, Ok(("/mnt".into(), root)))),
        (3, place(3, Err("gone".into()))),
    ]);
    let mount = |device, at: &str| Mount {
        device,
        root: b"/".to_vec(),
        mountpoint: at.into(),
        ..Mount::default()
    };
    let old = [mount(1, "/"), mount(2, "/data"), mount(3, "/other")];
    let of = |device, path: &str| {
        let record = Inode {
            device,
            path: path.into(),
            ..Inode::default()
        };
        moved(&places, &old, &record).map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(of(1, "/var/x"), Some("/var/x".into()));
    assert_eq!(of(2, "/data/a/b"), Some("/mnt/a/b".into()));
    assert_eq!(
        (of(2, "/elsewhere"), of(3, "/other/x"), of(4, "/x")),
        (None, None, None)
    );
}
