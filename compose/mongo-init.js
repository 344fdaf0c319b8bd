// A one-shot of compose.yml, run by mongosh: the one-node replica set, and the user `holdfast` who may use
// one database. It may be run again: what is there stays, and the password becomes that of the secret file.

const { readFileSync } = require("fs");

const SET = "holdfast";
const HOST = process.env.MONGO_ADDRESS;
const secret = (name) => readFileSync(process.env[name], "utf8").replace(/^\uFEFF/, "").replace(/[ \t\r\n\v\f\x1a]+$/, "");

// A member that was never initiated is found by a direct connection only.
const url = `mongodb://root:${encodeURIComponent(secret("MONGO_ROOT_PASSWORD_FILE"))}@${HOST}/admin?directConnection=true`;

// On its very first start the image makes `root` on a server that accepts no other client, then starts again.
function connected(tries) {
  try {
    return connect(`${url}&serverSelectionTimeoutMS=2000`);
  } catch (error) {
    if (tries <= 1) throw error;
    sleep(1000);
    return connected(tries - 1);
  }
}

const admin = connected(60);
const NOT_YET_INITIALIZED = 94;
try {
  admin.adminCommand({ replSetGetStatus: 1 });
} catch (error) {
  if (error.code !== NOT_YET_INITIALIZED) throw error;
  admin.adminCommand({ replSetInitiate: { _id: SET, members: [{ _id: 0, host: HOST }] } });
}

for (let tries = 60; !admin.adminCommand({ hello: 1 }).isWritablePrimary; tries--) {
  if (tries === 0) throw new Error("it did not become the primary within a minute");
  sleep(1000);
}

const user = { pwd: secret("MONGO_PASSWORD_FILE"), roles: [{ role: "readWrite", db: "holdfast" }] };
if (admin.getUser("holdfast")) admin.updateUser("holdfast", user);
else admin.createUser({ user: "holdfast", ...user });
print(`replica set ${SET} is ready, with the user holdfast`);
