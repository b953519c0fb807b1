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
    let place = |device, was_at: &str, here| System {
        device,
        name: String::new(),
        fstype: b"xfs".to_vec(),
        here,
        was_at: vec![was_at.into()],
        file_system: device,
        options: Vec::new(),
    };
    let places = BTreeMap::from([
        (1, place(1, "/", Ok(("/".into(), root.try_clone().unwrap())))),
        (2, place(2, "/data", Ok(("/mnt".into(), root)))),
        (3, place(3, "/other", Err("gone".into()))),
    ]);
    let of = |device, path: &str| {
        let record = Inode {
            device,
            path: path.into(),
            ..Inode::default()
        };
        moved(&places, &record).map(|path| String::from_utf8(path).unwrap())
    };
    assert_eq!(of(1, "/var/x"), Some("/var/x".into()));
    assert_eq!(of(2, "/data/a/b"), Some("/mnt/a/b".into()));
    assert_eq!(
        (of(2, "/elsewhere"), of(3, "/other/x"), of(4, "/x")),
        (None, None, None)
    );
}

#[test]
fn what_a_directory_has_now_is_told() {
    let at = std::env::temp_dir().join(format!("orthros-as-it-is-{}", std::process::id()));
    fs::create_dir_all(at.join("below")).unwrap();
    fs::write(at.join("file"), "x").unwrap();
    let directory = open(&at, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    // Not every file system has handles.
    let has_handles = sys::handle_of(directory.as_fd(), c"").is_ok();
    let mut found = as_it_is(&directory).unwrap();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    let names: Vec<&[u8]> = found.iter().map(|entry| &*entry.name).collect();
    let number = fs::metadata(at.join("file")).unwrap().ino();
    fs::remove_dir_all(&at).unwrap();
    match has_handles {
        true => assert_eq!((names, found[1].number), (vec![&b"below"[..], b"file"], number)),
        false => assert_eq!(names, Vec::<&[u8]>::new()),
    }
}
