//! Real mounts of real file systems, on loop devices, across processes of the plugin.

use crate::world::{
    DEVICE_BYTES, Presented, Served, World, block, capability, directory, may_mount, refusal, run,
};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use umbra_csi::wire::csi;
use umbra_csi::wire::csi::volume_capability::access_mode::Mode;
use umbra_csi::wire::csi::volume_capability::{AccessType, MountVolume};

/// What a pod asks for.
struct Pod<'a> {
    world: &'a World,
    volume: String,
    access: Option<AccessType>,
    mode: Mode,
    context: HashMap<String, String>,
}

impl<'a> Pod<'a> {
    fn new(world: &'a World, volume: impl std::fmt::Display, access: Option<AccessType>) -> Self {
        let volume = volume.to_string();
        let of_pod = |key: &str| format!("csi.storage.k8s.io/pod.{key}");
        let context = HashMap::from([
            (of_pod("namespace"), "prod".to_owned()),
            (of_pod("name"), "pg-0".to_owned()),
            (of_pod("uid"), "7".to_owned()),
        ]);
        Self { world, volume, access, mode: Mode::SingleNodeWriter, context }
    }

    fn staging(&self) -> String {
        self.world.text("staging")
    }

    async fn stage(&self, plugin: &mut Served) -> Result<(), tonic::Status> {
        let request = csi::NodeStageVolumeRequest {
            volume_id: self.volume.clone(),
            staging_target_path: self.staging(),
            volume_capability: capability(self.access.clone(), self.mode),
            volume_context: self.context.clone(),
            ..csi::NodeStageVolumeRequest::default()
        };
        plugin.node.node_stage_volume(request).await.map(drop)
    }

    async fn publish(&self, plugin: &mut Served, at: &str, readonly: bool) -> Result<(), tonic::Status> {
        let request = csi::NodePublishVolumeRequest {
            volume_id: self.volume.clone(),
            staging_target_path: self.staging(),
            target_path: self.world.text(at),
            volume_capability: capability(self.access.clone(), self.mode),
            volume_context: self.context.clone(),
            readonly,
            ..csi::NodePublishVolumeRequest::default()
        };
        plugin.node.node_publish_volume(request).await.map(drop)
    }

    async fn unpublish(&self, plugin: &mut Served, at: &str) -> Result<(), tonic::Status> {
        let target_path = self.world.text(at);
        let request = csi::NodeUnpublishVolumeRequest { volume_id: self.volume.clone(), target_path };
        plugin.node.node_unpublish_volume(request).await.map(drop)
    }

    async fn unstage(&self, plugin: &mut Served) -> Result<(), tonic::Status> {
        let staging_target_path = self.staging();
        let request = csi::NodeUnstageVolumeRequest { volume_id: self.volume.clone(), staging_target_path };
        plugin.node.node_unstage_volume(request).await.map(drop)
    }

    async fn usage(&self, plugin: &mut Served, at: &str) -> Vec<csi::VolumeUsage> {
        let request = csi::NodeGetVolumeStatsRequest {
            volume_id: self.volume.clone(),
            volume_path: self.world.text(at),
            ..csi::NodeGetVolumeStatsRequest::default()
        };
        plugin.node.node_get_volume_stats(request).await.expect("it is there").into_inner().usage
    }
}

fn is_read_only(done: &io::Result<()>) -> bool {
    done.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ReadOnlyFilesystem)
}

/// Nothing of the test's folder is mounted, and nothing is in the ledger.
fn nothing_is_left(world: &World) {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let folder = world.folder.path().display().to_string();
    let left: Vec<&str> = table.lines().filter(|line| line.contains(&folder)).collect();
    assert!(left.is_empty(), "{left:#?}");
    let files = fs::read_dir(world.path("state/volumes")).expect("listed").flatten();
    let names: Vec<_> = files.map(|file| file.file_name()).collect();
    assert_eq!(names, ["lock"]);
}

#[tokio::test]
async fn a_master_is_a_directory_of_its_pods() {
    if !may_mount("a_master_is_a_directory_of_its_pods") {
        return;
    }
    let world = World::new().await;
    world.serve_platform().await;
    let _device = Presented::new(world.path("disk"), world.master).with("mkfs.ext4");
    let mut plugin = world.serve().await;
    let pod = Pod::new(&world, format!("m/{}", world.master), directory("ext4"));
    for _ in 0..2 {
        pod.stage(&mut plugin).await.expect("staged");
        pod.publish(&mut plugin, "pod", false).await.expect("published");
        pod.publish(&mut plugin, "reader", true).await.expect("published");
    }
    fs::write(world.path("pod/row"), "1").expect("written");
    assert_eq!(fs::read_to_string(world.path("reader/row")).expect("read"), "1");
    assert!(is_read_only(&fs::write(world.path("reader/row"), "2")));
    let [bytes, inodes] = &pod.usage(&mut plugin, "pod").await[..] else { panic!("bytes and inodes") };
    assert!(bytes.total > 32 << 20 && bytes.used > 0 && bytes.available > 0 && bytes.total < 64 << 20);
    assert!(inodes.total > 0 && inodes.used > 10 && inodes.total == inodes.used + inodes.available);

    // Another process of the plugin finds what there is.
    plugin.stop().await;
    let mut plugin = world.serve().await;
    let in_use = plugin.ledger.in_use(pod.volume.parse().expect("a handle")).expect("known");
    assert_eq!(in_use.published.len(), 2);
    assert!(in_use.published.iter().all(|entry| entry.pod.as_ref().is_some_and(|pod| pod.name == "pg-0")));
    assert_eq!(refusal(pod.unstage(&mut plugin).await).reason(), "STILL_PUBLISHED");
    let open = fs::File::open(world.path("pod/row")).expect("opened");
    assert_eq!(refusal(pod.unpublish(&mut plugin, "pod").await).reason(), "IN_USE");
    drop(open);
    for _ in 0..2 {
        pod.unpublish(&mut plugin, "pod").await.expect("left");
        pod.unpublish(&mut plugin, "reader").await.expect("left");
    }
    assert!(!world.path("pod").exists() && !world.path("reader").exists());
    for _ in 0..2 {
        pod.unstage(&mut plugin).await.expect("left");
    }
    nothing_is_left(&world);
    plugin.stop().await;
}

#[tokio::test]
async fn a_master_is_a_device_of_its_pods() {
    if !may_mount("a_master_is_a_device_of_its_pods") {
        return;
    }
    let world = World::new().await;
    world.serve_platform().await;
    let device = Presented::new(world.path("disk"), world.master);
    let mut plugin = world.serve().await;
    let pod = Pod::new(&world, format!("m/{}", world.master), block());
    // Left by a pod of before that had a directory.
    fs::create_dir(world.path("pod")).expect("made");
    for _ in 0..2 {
        pod.stage(&mut plugin).await.expect("staged");
        pod.publish(&mut plugin, "pod", false).await.expect("published");
        pod.publish(&mut plugin, "reader", true).await.expect("published");
    }
    assert!(fs::metadata(world.path("pod")).expect("there").file_type().is_block_device());
    let mut opened = fs::OpenOptions::new().write(true).open(world.path("pod")).expect("opened");
    opened.write_all(b"image").and_then(|()| opened.sync_all()).expect("written");
    drop(opened);
    assert!(fs::read(&device.file).expect("read").starts_with(b"image"));
    let [bytes] = &pod.usage(&mut plugin, "pod").await[..] else { panic!("bytes") };
    assert_eq!(bytes.total, 64 << 20);
    pod.unpublish(&mut plugin, "pod").await.expect("left");
    assert_eq!(refusal(pod.unstage(&mut plugin).await).reason(), "STILL_PUBLISHED");
    pod.unpublish(&mut plugin, "reader").await.expect("left");
    pod.unstage(&mut plugin).await.expect("left");
    assert!(!world.path("pod").exists() && !world.path("reader").exists());
    nothing_is_left(&world);
    plugin.stop().await;
}

#[tokio::test]
async fn an_image_is_mounted_beside_its_master_and_nobody_writes_it() {
    if !may_mount("an_image_is_mounted_beside_its_master_and_nobody_writes_it") {
        return;
    }
    // XFS is never smaller.
    for (make, bytes) in [("mkfs.ext4", DEVICE_BYTES), ("mkfs.xfs", 320 << 20)] {
        let world = World::new().await;
        world.serve_platform().await;
        let master = Presented::sized(world.path("disk"), world.master, bytes).with(make);
        let at = world.text("source");
        fs::create_dir(&at).expect("made");
        run("mount", &[&master.device.display().to_string(), &at]);
        fs::write(world.path("source/row"), "1").expect("written");
        run("sync", &[]);
        // Taken while it is mounted, so there is a journal to replay.
        let image = Presented::sized(world.path("image"), world.set, bytes);
        fs::copy(&master.file, &image.file).expect("copied");
        let mut plugin = world.serve().await;
        let mut pod = Pod::new(&world, format!("s/{}", world.set), directory(""));
        pod.mode = Mode::MultiNodeReaderOnly;
        pod.stage(&mut plugin).await.unwrap_or_else(|status| panic!("{make}: {status}"));
        pod.publish(&mut plugin, "pod", false).await.expect("published");
        assert_eq!(fs::read_to_string(world.path("pod/row")).expect("read"), "1", "{make}");
        assert!(is_read_only(&fs::write(world.path("pod/row"), "2")), "{make}");
        assert!(is_read_only(&fs::write(world.path("staging/row"), "2")), "{make}");
        fs::write(world.path("source/row"), "3").expect("the master goes on");
        pod.unpublish(&mut plugin, "pod").await.expect("left");
        pod.unstage(&mut plugin).await.expect("left");

        pod.mode = Mode::SingleNodeWriter;
        pod.context.insert("imaging.umbra.dev/shadow-access".into(), "ReadWrite".into());
        pod.stage(&mut plugin).await.expect("staged");
        pod.publish(&mut plugin, "pod", false).await.expect("published");
        fs::write(world.path("pod/row"), "2").expect("its set says so");
        pod.unpublish(&mut plugin, "pod").await.expect("left");
        pod.unstage(&mut plugin).await.expect("left");
        run("umount", &[&at]);
        nothing_is_left(&world);
        plugin.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_ever_formatted() {
    if !may_mount("nothing_is_ever_formatted") {
        return;
    }
    let world = World::new().await;
    world.serve_platform().await;
    let device = Presented::new(world.path("disk"), world.master);
    let mut plugin = world.serve().await;
    let pod = Pod::new(&world, format!("m/{}", world.master), directory("ext4"));
    let mut content = vec![0; 64 << 20];
    for found in ["empty", "unknown"] {
        let refusal = refusal(pod.stage(&mut plugin).await);
        assert!(refusal.reason() == "NOT_MOUNTABLE" && refusal.to_string().contains(found), "{refusal}");
        assert!(fs::read(&device.file).expect("read") == content, "the device was written");
        content[..5].copy_from_slice(b"hello");
        fs::write(&device.file, &content).expect("written");
    }
    nothing_is_left(&world);
    // A file system that the kernel does not mount: the call fails, and nobody is in the ledger.
    run("mkfs.ext4", &["-q", "-F", &device.device.display().to_string()]);
    let mut options = Pod::new(&world, format!("m/{}", world.master), None);
    let mount = MountVolume { mount_flags: vec!["no-such-option".into()], ..MountVolume::default() };
    options.access = Some(AccessType::Mount(mount));
    assert_eq!(refusal(options.stage(&mut plugin).await).reason(), "FAILED");
    assert!(!world.path("staging").exists());
    nothing_is_left(&world);
    plugin.stop().await;
}

/// Options of the PersistentVolume reach the kernel, and a read-only bind keeps them.
#[tokio::test]
async fn options_are_kept() {
    if !may_mount("options_are_kept") {
        return;
    }
    let world = World::new().await;
    world.serve_platform().await;
    let _device = Presented::new(world.path("disk"), world.master).with("mkfs.ext4");
    let mut plugin = world.serve().await;
    let flags = ["noatime", "nosuid", "data=journal"].map(str::to_owned).to_vec();
    let mount = MountVolume { mount_flags: flags, ..MountVolume::default() };
    let pod = Pod::new(&world, format!("m/{}", world.master), Some(AccessType::Mount(mount)));
    pod.stage(&mut plugin).await.expect("staged");
    pod.publish(&mut plugin, "reader", true).await.expect("published");
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read");
    let line = table.lines().find(|line| line.contains(&world.text("reader"))).expect("mounted");
    let options: Vec<&str> = line.split(' ').nth(5).expect("options").split(',').collect();
    assert!(["ro", "nosuid", "noatime"].iter().all(|option| options.contains(option)), "{line}");
    assert!(line.contains("data=journal"), "{line}");
    pod.unpublish(&mut plugin, "reader").await.expect("left");
    pod.unstage(&mut plugin).await.expect("left");
    nothing_is_left(&world);
    plugin.stop().await;
}
