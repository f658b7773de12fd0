// Package spec turns what a user asked of a container into an OCI runtime specification. It is a
// function over values: whoever calls it has looked up users, devices and mounts before, so every
// rule here is tested without root. Its words: a Config travels with an image, a HostConfig belongs
// to one machine, a Mount is resolved when its source is a path of this machine.
//
// The two configurations carry the JSON names of the Docker Engine API, in which they are also
// stored. What is not a field here is not supported, and is refused at the border.
package spec

import "time"

// Config is the portable half of a container's options (Engine API: ContainerConfig).
type Config struct {
	Hostname        string              `json:",omitempty"`
	Domainname      string              `json:",omitempty"`
	User            string              `json:",omitempty"`
	AttachStdin     bool                `json:",omitempty"`
	AttachStdout    bool                `json:",omitempty"`
	AttachStderr    bool                `json:",omitempty"`
	ExposedPorts    map[string]struct{} `json:",omitempty"` // "80/tcp"
	Tty             bool                `json:",omitempty"`
	OpenStdin       bool                `json:",omitempty"`
	StdinOnce       bool                `json:",omitempty"` // close stdin when the first client's input ends
	Env             []string            `json:",omitempty"`
	Cmd             []string            `json:",omitempty"`
	Healthcheck     *Healthcheck        `json:",omitempty"`
	Image           string              `json:",omitempty"` // as the user wrote it
	Volumes         map[string]struct{} `json:",omitempty"`
	WorkingDir      string              `json:",omitempty"`
	Entrypoint      []string            `json:",omitempty"`
	NetworkDisabled bool                `json:",omitempty"`
	OnBuild         []string            `json:",omitempty"`
	Labels          map[string]string   `json:",omitempty"`
	StopSignal      string              `json:",omitempty"`
	StopTimeout     *int                `json:",omitempty"` // seconds
	Shell           []string            `json:",omitempty"`
}

// Healthcheck is the probe of an image or container (docker-image-spec v1.3).
type Healthcheck struct {
	Test          []string      `json:",omitempty"` // nil inherits; NONE; CMD args...; CMD-SHELL line
	Interval      time.Duration `json:",omitempty"`
	Timeout       time.Duration `json:",omitempty"`
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"`
	Retries       int           `json:",omitempty"`
}

// HostConfig is the half of a container's options that depends on the machine (Engine API: HostConfig).
type HostConfig struct {
	Binds           []string                 `json:",omitempty"`
	ContainerIDFile string                   `json:",omitempty"` // written by the client
	LogConfig       LogConfig                ``
	NetworkMode     string                   `json:",omitempty"`
	PortBindings    map[string][]PortBinding `json:",omitempty"`
	RestartPolicy   RestartPolicy            ``
	AutoRemove      bool                     `json:",omitempty"`
	VolumeDriver    string                   `json:",omitempty"`
	VolumesFrom     []string                 `json:",omitempty"`
	ConsoleSize     [2]uint                  `json:",omitempty"` // height, width
	Annotations     map[string]string        `json:",omitempty"`

	CapAdd          []string          `json:",omitempty"`
	CapDrop         []string          `json:",omitempty"`
	CgroupnsMode    string            `json:",omitempty"`
	DNS             []string          `json:"Dns,omitempty"`
	DNSOptions      []string          `json:"DnsOptions,omitempty"`
	DNSSearch       []string          `json:"DnsSearch,omitempty"`
	ExtraHosts      []string          `json:",omitempty"`
	GroupAdd        []string          `json:",omitempty"`
	Init            *bool             `json:",omitempty"` // process 1 is an init that starts the command
	IpcMode         string            `json:",omitempty"`
	Links           []string          `json:",omitempty"` // NAME:ALIAS
	OomScoreAdj     int               `json:",omitempty"`
	PidMode         string            `json:",omitempty"`
	Privileged      bool              `json:",omitempty"`
	PublishAllPorts bool              `json:",omitempty"`
	ReadonlyRootfs  bool              `json:",omitempty"`
	SecurityOpt     []string          `json:",omitempty"`
	Tmpfs           map[string]string `json:",omitempty"`
	UTSMode         string            `json:",omitempty"`
	UsernsMode      string            `json:",omitempty"`
	ShmSize         int64             `json:",omitempty"`
	StorageOpt      map[string]string `json:",omitempty"` // none is supported
	Sysctls         map[string]string `json:",omitempty"`
	Runtime         string            `json:",omitempty"`
	Umask           *uint32           `json:",omitempty"`
	Isolation       string            `json:",omitempty"`
	Mounts          []MountRequest    `json:",omitempty"`
	MaskedPaths     []string          // nil means the default set, empty none
	ReadonlyPaths   []string          // likewise

	Resources
}

// Resources are the limits of a container.
type Resources struct {
	CPUShares    int64  `json:"CpuShares,omitempty"`
	Memory       int64  `json:",omitempty"`
	NanoCPUs     int64  `json:"NanoCpus,omitempty"`
	CgroupParent string `json:",omitempty"`
	BlkioWeight  uint16 `json:",omitempty"`
	Blkio
	CPUPeriod         int64           `json:"CpuPeriod,omitempty"`
	CPUQuota          int64           `json:"CpuQuota,omitempty"`
	CPURealtimePeriod int64           `json:"CpuRealtimePeriod,omitempty"`
	CPURealtimeQuota  int64           `json:"CpuRealtimeRuntime,omitempty"`
	CpusetCpus        string          `json:",omitempty"`
	CpusetMems        string          `json:",omitempty"`
	Devices           []Device        `json:",omitempty"`
	DeviceCgroupRules []string        `json:",omitempty"`
	DeviceRequests    []DeviceRequest `json:",omitempty"`
	MemoryReservation int64           `json:",omitempty"`
	MemorySwap        int64           `json:",omitempty"`
	MemorySwappiness  *int64          `json:",omitempty"`
	OomKillDisable    *bool           `json:",omitempty"`
	PidsLimit         *int64          `json:",omitempty"`
	Ulimits           []Ulimit        `json:",omitempty"`
}

// Blkio are limits of block devices, each named by its path on the host.
type Blkio struct {
	BlkioWeightDevice    []WeightDevice   `json:",omitempty"`
	BlkioDeviceReadBps   []ThrottleDevice `json:",omitempty"` // bytes a second
	BlkioDeviceWriteBps  []ThrottleDevice `json:",omitempty"`
	BlkioDeviceReadIOps  []ThrottleDevice `json:",omitempty"` // requests a second
	BlkioDeviceWriteIOps []ThrottleDevice `json:",omitempty"`
}

// WeightDevice is a device's share of a container's requests, from 10 to 1000.
type WeightDevice struct {
	Path   string
	Weight uint16
}

// ThrottleDevice is a limit of a device.
type ThrottleDevice struct {
	Path string
	Rate uint64
}

// Ulimit is one resource limit of the process, with Docker's short names (nofile, nproc, ...).
type Ulimit struct {
	Name string
	Hard int64
	Soft int64
}

// Device asks for a device node of the host, or for all below a directory.
type Device struct {
	PathOnHost        string
	PathInContainer   string
	CgroupPermissions string
}

// DeviceRequest asks for devices by what they are: driver "cdi" for names of the Container Device Interface, or GPUs.
type DeviceRequest struct {
	Driver       string            `json:",omitempty"`
	Count        int               `json:",omitempty"` // -1: all
	DeviceIDs    []string          `json:",omitempty"`
	Capabilities [][]string        `json:",omitempty"`
	Options      map[string]string `json:",omitempty"`
}

// LogConfig chooses where output is kept: "json-file" (default) or "none".
type LogConfig struct {
	Type   string            `json:",omitempty"`
	Config map[string]string `json:",omitempty"`
}

// PortBinding is where a container's port appears on the host. Empty values let the daemon choose.
type PortBinding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// RestartPolicy says when an ended container is started again.
type RestartPolicy struct {
	Name              string `json:",omitempty"` // "", no, always, unless-stopped, on-failure
	MaximumRetryCount int    `json:",omitempty"`
}

// MountRequest is one --mount.
type MountRequest struct {
	Type          string         `json:",omitempty"` // bind, volume, tmpfs, image
	Source        string         `json:",omitempty"`
	Target        string         `json:",omitempty"`
	ReadOnly      bool           `json:",omitempty"`
	Consistency   string         `json:",omitempty"` // a hint for other systems; no effect on Linux
	BindOptions   *BindOptions   `json:",omitempty"`
	VolumeOptions *VolumeOptions `json:",omitempty"`
	ImageOptions  *ImageOptions  `json:",omitempty"`
	TmpfsOptions  *TmpfsOptions  `json:",omitempty"`
}

// ImageOptions refine the mount of an image.
type ImageOptions struct {
	Subpath string `json:",omitempty"`
}

// BindOptions refine a bind mount.
type BindOptions struct {
	Propagation            string `json:",omitempty"`
	NonRecursive           bool   `json:",omitempty"`
	CreateMountpoint       bool   `json:",omitempty"`
	ReadOnlyNonRecursive   bool   `json:",omitempty"`
	ReadOnlyForceRecursive bool   `json:",omitempty"`
}

// VolumeOptions refine a volume mount.
type VolumeOptions struct {
	NoCopy       bool              `json:",omitempty"`
	Labels       map[string]string `json:",omitempty"`
	Subpath      string            `json:",omitempty"`
	DriverConfig *Driver           `json:",omitempty"`
}

// Driver names a volume driver, of which there is "local", and its options.
type Driver struct {
	Name    string            `json:",omitempty"`
	Options map[string]string `json:",omitempty"`
}

// TmpfsOptions refine a tmpfs mount.
type TmpfsOptions struct {
	SizeBytes int64      `json:",omitempty"`
	Mode      uint32     `json:",omitempty"`
	Options   [][]string `json:",omitempty"`
}
